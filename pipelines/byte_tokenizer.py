"""A complete text-to-video pipeline made on the spot: the parts of Stable Diffusion, tiny, with random weights."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_video.pipelines.text_to_video import TextToVideoPipeline


TEXT_WIDTH = 32
MAX_TOKENS = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"
_BYTES_WITH_A_CHARACTER = (*range(33, 127), *range(161, 173), *range(174, 256))


def build_byte_tokenizer(model_max_length: int = MAX_TOKENS) -> CLIPTokenizer:
    """
    Make a CLIP tokenizer with one token for each byte: it reads every text, and there is nothing to download.

    Args:
        model_max_length (`int`, *optional*, defaults to 77): Tokens of a padded prompt.

    Returns:
        `CLIPTokenizer`: With 514 tokens: each byte inside a word and at its end, and the two that enclose a prompt.

    Source:
        The byte-level alphabet of GPT-2, which CLIP's tokenizer uses: a byte without a printable character gets one
        from 256 on.
    """
    others = iter(range(256, 512))
    letters = [chr(byte if byte in _BYTES_WITH_A_CHARACTER else next(others)) for byte in range(256)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), _START, _END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=model_max_length)


def build_untrained_pipeline(seed: int = 0, preset: str = "light") -> TextToVideoPipeline:
    """
    Make a tiny text-to-video pipeline with random weights, as a real one is made of an image model.

    It shows that everything is in place, not what a model can draw: its frames look like noise.

    Args:
        seed (`int`, *optional*, defaults to 0): Same seed, same weights. The global random state is left alone.
        preset (`str`, *optional*, defaults to `"light"`): Preset of [`UNetVideoConditionModel.from_unet2d`].

    Returns:
        [`TextToVideoPipeline`]: In float32 on the CPU, for 16 frames of 64 by 64 pixels unless a call says
        otherwise; sizes are multiples of 8.

    Raises:
        ValueError: If `preset` is unknown.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_pipeline = StableDiffusionPipeline(
            vae=_build_vae(),
            text_encoder=_build_text_encoder(),
            tokenizer=build_byte_tokenizer(),
            unet=_build_unet(),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return TextToVideoPipeline.from_image_model(image_pipeline, preset)


def _build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    ).eval()


def _build_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return CLIPTextModel(config).eval()


def _build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
