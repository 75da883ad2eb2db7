"""The noise prior that a pipeline was trained with is what it starts from."""

import pytest
import torch
from torch import Tensor

from diffusers_video import TextToVideoPipeline
from diffusers_video.conditioning.noise import NOISE_PRIORS, draw_noise

from ..tiny_pipelines import SIZE, tiny_text_to_video


SHAPE = {"num_frames": 3, "height": SIZE, "width": SIZE, "dtype": torch.float32, "device": "cpu"}
STEPS = {"num_inference_steps": 2, "output_type": "latent"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def with_prior(noise_prior: str, strength: float = 0.7) -> TextToVideoPipeline:
    components = tiny_text_to_video().components
    pipeline = TextToVideoPipeline(**components, num_frames=3, noise_prior=noise_prior, noise_prior_strength=strength)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=NOISE_PRIORS)
def pipeline(request: pytest.FixtureRequest) -> TextToVideoPipeline:
    return with_prior(request.param)


def own_noise(pipeline: TextToVideoPipeline, *seeds: int) -> Tensor:
    prior, generator = pipeline.config.noise_prior, seeded(*seeds)
    return draw_noise((len(seeds), 4, 3, SIZE // 2, SIZE // 2), prior, 0.7, generator=generator)


def test_noise_of_a_video_is_the_same_alone_and_in_a_batch(pipeline: TextToVideoPipeline) -> None:
    batch = pipeline.prepare_latents(3, **SHAPE, generator=seeded(5, 6, 7))
    for index, seed in enumerate((5, 6, 7)):
        assert torch.equal(batch[index], pipeline.prepare_latents(1, **SHAPE, generator=seeded(seed))[0])


def test_a_new_pipeline_starts_from_independent_noise() -> None:
    noise = tiny_text_to_video().prepare_latents(1, **SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise, torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("noise_prior", "correlations"),
    [("independent", (0.0, 0.0)), ("mixed", (0.8, 0.8)), ("progressive", (0.8**0.5, 0.8))],
)
def test_starting_noise_has_the_correlations_of_the_prior(noise_prior: str, correlations: tuple[float, float]) -> None:
    shape = {**SHAPE, "height": 10 * SIZE, "width": 10 * SIZE}
    noise = with_prior(noise_prior, 2.0).prepare_latents(2, **shape, generator=torch.Generator().manual_seed(0))
    frames = noise.transpose(0, 2).flatten(1)  # 51,200 values each: correlations are good to 0.005
    measured = torch.corrcoef(frames)[0, 1:]
    torch.testing.assert_close(measured, torch.tensor(correlations), atol=0.02, rtol=0)
    torch.testing.assert_close(frames.std(dim=1), torch.ones(3), atol=0.02, rtol=0)


def test_a_call_starts_from_the_noise_of_the_prior(pipeline: TextToVideoPipeline) -> None:
    frames = pipeline(["a", "b"], generator=seeded(1, 2), **STEPS).frames
    want = pipeline(["a", "b"], latents=own_noise(pipeline, 1, 2), **STEPS).frames
    assert torch.equal(frames, want)


def test_a_video_to_start_from_gets_noise_of_the_prior(pipeline: TextToVideoPipeline) -> None:
    video, timestep = torch.rand(1, 3, 3, SIZE, SIZE), torch.tensor([500])
    given = {"video": video, "timestep": timestep}
    # Encoding draws from the generator first, so that the noise is what a generator gives after it.
    generator = torch.Generator().manual_seed(0)
    torch.randn((3, 4, SIZE // 2, SIZE // 2), generator=generator)
    noise = draw_noise((1, 4, 3, SIZE // 2, SIZE // 2), pipeline.config.noise_prior, 0.7, generator=generator)
    with torch.no_grad():
        latents = pipeline.prepare_latents(1, **SHAPE, generator=seeded(0), **given)
        want = pipeline.prepare_latents(1, **SHAPE, generator=seeded(0), latents=noise, **given)
    assert torch.equal(latents, want)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise_prior": "shared"}, ValueError, "`noise_prior` must be one of"),
        ({"noise_prior": "mixed", "noise_prior_strength": 0}, ValueError, "`noise_prior_strength` must be above 0"),
        ({"noise_prior_strength": "1"}, TypeError, "`noise_prior_strength` must be a number"),
    ],
)
def test_a_wrong_prior_is_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextToVideoPipeline(**tiny_text_to_video().components, **arguments)
