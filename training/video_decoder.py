"""The models of a run of `train_video_decoder.py`."""

from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from torch.utils.data import Dataset

from diffusers_video.conversion.temporal_decoder import convert_temporal_decoder
from diffusers_video.data.buckets import Bucket
from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
from diffusers_video.models.discriminators import VideoPatchDiscriminator
from diffusers_video.training.autoencoders import find_autoencoder
from diffusers_video.training.decoder_loss import last_layer
from diffusers_video.training.video_decoder_config import VideoDecoderConfig


def load_video_autoencoder(config: VideoDecoderConfig) -> AutoencoderKLVideo:
    """
    Load the autoencoder to train: one of videos as it is, one of images with new temporal layers.

    Args:
        config ([`VideoDecoderConfig`]): Settings.

    Returns:
        [`AutoencoderKLVideo`] in float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another model, or options are given for layers that exist already.
    """
    name = config.pretrained_model_name_or_path
    settings, source = find_autoencoder(name, config.revision)
    kind = settings.get("_class_name", AutoencoderKL.__name__)
    if kind == AutoencoderKL.__name__:
        vae = AutoencoderKL.from_pretrained(name, **source)
        options = {} if config.temporal_attention is None else {"temporal_attention": config.temporal_attention}
        return AutoencoderKLVideo.from_autoencoder_kl(vae, config.preset or "videoldm", **options)
    for option in ("preset", "temporal_attention"):
        if getattr(config, option) is not None:
            raise ValueError(f"`{option}` is for new video models, but {name!r} is a `{kind}`. Leave it out.")
    if kind == AutoencoderKLVideo.__name__:
        return AutoencoderKLVideo.from_pretrained(name, **source)
    if kind == AutoencoderKLTemporalDecoder.__name__:
        return convert_temporal_decoder(AutoencoderKLTemporalDecoder.from_pretrained(name, **source))
    raise ValueError(
        f"`pretrained_model_name_or_path` must be an `AutoencoderKL`, an `AutoencoderKLVideo` or an"
        f" `AutoencoderKLTemporalDecoder`, but {name!r} is a `{kind}`."
    )


def build_discriminator(
    config: VideoDecoderConfig, vae: AutoencoderKLVideo, dataset: Dataset
) -> VideoPatchDiscriminator | None:
    """
    Make a new discriminator.

    Args:
        config ([`VideoDecoderConfig`]): Its size.
        vae ([`AutoencoderKLVideo`]): What it judges.
        dataset (`Dataset`): The clips, with `buckets`.

    Returns:
        [`VideoPatchDiscriminator`], *optional*: `None` with `disc_weight=0`.

    Raises:
        ValueError: If the clips are too small for it.
    """
    if config.disc_weight == 0:
        return None
    buckets = [Bucket.parse(name) for name in set(dataset.buckets)]
    smallest = min(min(bucket.height, bucket.width) for bucket in buckets)
    if smallest < 2**config.disc_num_layers:
        raise ValueError(
            f"`disc_num_layers` must not halve clips to nothing: {config.disc_num_layers} layers need"
            f" {2**config.disc_num_layers} pixels, but the clips have {smallest}. Take fewer layers or larger clips."
        )
    return VideoPatchDiscriminator(vae.config.out_channels, config.disc_base_channels, config.disc_num_layers)


def select_trained(vae: AutoencoderKLVideo, config: VideoDecoderConfig, num_frames: int) -> None:
    """
    Freeze the encoder, and of the decoder what the settings name; let it decode chunks as long as the clips.

    Args:
        vae ([`AutoencoderKLVideo`]): `requires_grad` of its weights and its chunks are set.
        config ([`VideoDecoderConfig`]): `train` and `decode_chunk_overlap`.
        num_frames (`int`): Frames of the longest clips.

    Raises:
        ValueError: If the clips are single frames, the overlap is as long as they are, or the adversarial loss cannot
            be balanced.
    """
    if num_frames == 1:
        raise ValueError("`train_data_dir` must give clips of several frames, but all have one. Lower `fps`.")
    overlap = num_frames // 4 if config.decode_chunk_overlap is None else config.decode_chunk_overlap
    if overlap >= num_frames:
        raise ValueError(f"`decode_chunk_overlap` must be below the {num_frames} frames of clips, but is {overlap}.")
    vae.register_to_config(decode_chunk_size=num_frames, decode_chunk_overlap=overlap)
    vae.freeze_spatial_layers()
    if config.train == "decoder":
        vae.decoder.requires_grad_(True)
    if config.disc_weight and not config.fixed_disc_weight and not last_layer(vae).requires_grad:
        raise ValueError(
            "The adversarial loss cannot be balanced, because the decoder's last layer does not train. Set"
            " `fixed_disc_weight`, or `train=decoder`."
        )
    if config.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
