"""VDM with text: any scheduler, guidance against no text, padding that nothing reads, saving, and wrong calls."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from torch import Tensor

from diffusers_video import TextToVideoPipeline, VDMScheduler

from ..tiny_space_time import tiny_space_time
from ..tiny_text import FRAMES, MAX_TOKENS, SIDE, TEXT_WIDTH, tiny_text_models, tiny_text_vdm


RED, BLUE = "a red circle", "a blue square moves left"


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: TextToVideoPipeline, prompt: str | list[str] | None, *seeds: int, **arguments: object) -> Tensor:
    arguments = {"num_inference_steps": 2, "output_type": "pt", **arguments}
    return pipeline(prompt, generator=seeded(*seeds), **arguments).frames


@pytest.fixture(scope="module")
def pipeline() -> TextToVideoPipeline:
    return tiny_text_vdm()


@pytest.fixture(scope="module")
def precise() -> TextToVideoPipeline:
    return tiny_text_vdm(torch.float64)


@pytest.mark.parametrize("negative", [None, BLUE])
def test_guidance_goes_from_no_text_or_the_negative_one_to_the_prompt(
    precise: TextToVideoPipeline, negative: str | None
) -> None:
    generator, scheduler = torch.Generator().manual_seed(0), VDMScheduler.from_config(precise.scheduler.config)
    sample = torch.randn(1, 3, FRAMES, SIDE, SIDE, generator=generator, dtype=torch.float64)
    text, other = (None if one is None else precise.encode_prompt(one)[0] for one in (RED, negative))
    scheduler.set_timesteps(2)
    with torch.no_grad():
        for level in scheduler.timesteps:
            told, free = (precise.unet(sample, level, encoder_hidden_states=one).sample for one in (text, other))
            sample = scheduler.step(free + 3 * (told - free), level, sample, generator=generator).prev_sample
    want = (sample.transpose(1, 2) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(run(precise, RED, 0, guidance_scale=3.0, negative_prompt=negative), want)


def test_the_prompt_the_seed_and_the_scale_each_have_an_effect(pipeline: TextToVideoPipeline) -> None:
    first = run(pipeline, RED, 0)
    assert torch.equal(first, run(pipeline, RED, 0)) and 0 <= first.min() and first.max() <= 1
    for other in (run(pipeline, BLUE, 0), run(pipeline, RED, 1), run(pipeline, RED, 0, guidance_scale=1.0)):
        assert (first - other).abs().max() > 1e-3


def test_a_video_is_the_same_alone_and_from_its_embeddings(precise: TextToVideoPipeline) -> None:
    batch = run(precise, [RED, BLUE], 1, 2, 3, 4, num_videos_per_prompt=2)
    assert batch.shape == (4, FRAMES, 3, SIDE, SIDE)
    for index, prompt in ((1, RED), (2, BLUE)):
        alone = run(precise, prompt, 1 + index)
        torch.testing.assert_close(batch[index], alone[0], rtol=0, atol=1e-6)
        embeds = precise.encode_prompt(prompt)[0]
        again = run(precise, None, 1 + index, prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds))
        assert torch.equal(again, alone)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerDiscreteScheduler])
def test_schedulers_of_diffusers_draw_too(pipeline: TextToVideoPipeline, scheduler: Callable) -> None:
    own = pipeline.scheduler
    pipeline.scheduler = scheduler()
    first, again, other = (run(pipeline, prompt, 0) for prompt in (RED, RED, BLUE))
    pipeline.scheduler = own
    assert torch.isfinite(first).all() and torch.equal(first, again) and not torch.equal(first, other)


def test_padding_is_zeros_and_nothing_reads_it(precise: TextToVideoPipeline) -> None:
    embeds, negative, *_ = precise.encode_prompt([RED, BLUE])
    visible = (embeds != 0).any(dim=-1)
    assert embeds.shape == (2, MAX_TOKENS, TEXT_WIDTH) and visible.sum(dim=1).tolist() == [5, 7]  # with both ends
    assert visible[0, :5].all() and not negative.any()
    shorter = tiny_text_vdm(torch.float64, max_length=8)
    torch.testing.assert_close(shorter.encode_prompt([RED, BLUE])[0], embeds[:, :8])
    torch.testing.assert_close(run(shorter, RED, 0), run(precise, RED, 0), rtol=0, atol=1e-9)


def test_a_saved_pipeline_draws_the_same(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is TextToVideoPipeline and loaded.vae is None and loaded.vae_scale_factor == 1
    assert type(loaded.scheduler) is VDMScheduler and loaded.text_encoder.config.use_attention_mask
    assert torch.equal(run(loaded, RED, 0), run(pipeline, RED, 0))


def test_a_video_is_started_from(pipeline: TextToVideoPipeline) -> None:
    video = torch.rand(1, 5, 3, SIDE, 12, generator=torch.Generator().manual_seed(3))
    slight, strong = (run(pipeline, RED, 0, video=video, strength=part, num_inference_steps=20) for part in (0.1, 1))
    assert slight.shape == video.shape and (slight - video).abs().mean() < 0.5 * (strong - video).abs().mean()


BAD_CALLS = [
    ({"decode_chunk_size": 2}, "`decode_chunk_size` has no effect on a pipeline without `vae`"),
    ({"clip_skip": 1}, "`clip_skip` needs a text encoder of CLIP, but this is a BertModel"),
    ({"latents": torch.zeros(1, 4, FRAMES, SIDE, SIDE)}, "`latents` must"),
    ({"prompt": None}, "Either `prompt` or `prompt_embeds` must be given"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 4, 8)}, "`prompt_embeds` must"),
    ({"prompt_2": "a"}, "`prompt_2` has an effect only on Stable Diffusion XL"),
    ({"guidance_scale": 1.0, "negative_prompt": "a"}, "`negative_prompt` has no effect without guidance"),
    ({"video": torch.rand(2, 4, SIDE, SIDE)}, "`video` must"),
    ({"eta": -1}, "`eta` must"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_wrong_calls_are_refused(pipeline: TextToVideoPipeline, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(**{"prompt": RED, **arguments})


def test_parts_that_do_not_fit_are_refused(pipeline: TextToVideoPipeline) -> None:
    with pytest.raises(ValueError, match="as wide as the `pooled_text_dim` of `unet`, 24, but gives 16"):
        TextToVideoPipeline(None, unet=tiny_space_time("vdm", pooled_text_dim=24), scheduler=DDIMScheduler(),
                            **tiny_text_models())  # fmt: skip
    with pytest.raises(ValueError, match="which this model does not read"):
        tiny_text_vdm(timestep_type="discrete")
    with pytest.raises(ValueError, match="as many channels as pixels, 3, but it takes 4"):
        run(tiny_text_vdm(in_channels=4, out_channels=4), RED, 0)
    parts = {**pipeline.components, "text_encoder": None, "tokenizer": None}
    without = TextToVideoPipeline(**parts, num_frames=FRAMES)
    with pytest.raises(ValueError, match="`prompt` needs a `tokenizer`, but this pipeline has none"):
        run(without, RED, 0)
    without.set_progress_bar_config(disable=True)
    embeds = pipeline.encode_prompt(RED)[0]
    assert torch.equal(run(without, None, 0, prompt_embeds=embeds), run(pipeline, RED, 0))
