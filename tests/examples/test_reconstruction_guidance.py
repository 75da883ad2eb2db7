"""VDM's page: guidance is nearer to the exact conditional distribution than replacement, and sizes are as built."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


PAGE = Path(__file__).parents[2] / "docs" / "vdm.md"


@pytest.fixture(scope="module")
def toy(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("reconstruction_guidance")


@pytest.mark.parametrize(
    ("name", "num_corrector_steps"),
    [
        ("forward", 0),
        pytest.param("backward", 0, marks=pytest.mark.slow),
        ("between", 0),
        pytest.param("forward", 1, marks=pytest.mark.slow),
    ],
)
def test_guidance_is_nearer_to_the_exact_mean_than_replacement(
    toy: ModuleType, name: str, num_corrector_steps: int
) -> None:
    options = {"num_samples": 64, "steps": 40, "num_corrector_steps": num_corrector_steps}
    replaced, guided, strongly = (
        toy.sample_toy(toy.GIVEN[name], scale, **options).mean_error for scale in (0.0, 1.0, 4.0)
    )
    print(f"{name}, {num_corrector_steps} corrections: {replaced:.3f} by replacement, {guided:.3f}, {strongly:.3f}")
    assert guided < 0.85 * replaced and strongly < 0.5 * replaced


def test_the_exact_answer_is_that_of_gaussian_clips(toy: ModuleType) -> None:
    covariance, generator = toy.make_covariance(), torch.Generator().manual_seed(0)
    normal = torch.randn(200_000, toy.NUM_FRAMES, generator=generator, dtype=torch.float64)
    clips = normal @ torch.linalg.cholesky(covariance).T
    torch.testing.assert_close(clips.T.cov(), covariance, rtol=0, atol=0.02)
    mean, deviation = toy.answer_exactly(covariance, (0, 7), clips[:, [0, 7]])
    rest = clips[:, 1:7] - mean
    torch.testing.assert_close(rest.std(dim=0), deviation, rtol=0.02, atol=0)
    assert (rest.T @ clips[:, [0, 7]] / len(clips)).abs().max() < 0.01  # nothing of the given frames is left in it


def test_the_toys_denoiser_is_the_conditional_mean(toy: ModuleType) -> None:
    covariance, generator = toy.make_covariance(), torch.Generator().manual_seed(0)
    normal = torch.randn(100_000, toy.NUM_FRAMES, generator=generator, dtype=torch.float64)
    clips = (normal @ torch.linalg.cholesky(covariance).T)[:, None, :, None, None]
    sampler, level = toy.ToySampler(covariance), torch.tensor(0.7)
    noise = torch.randn(clips.shape, generator=generator, dtype=torch.float64)
    noisy = sampler.scheduler.add_noise(clips, noise, level.reshape(1))
    estimate = sampler.scheduler.estimate(sampler.unet(noisy, level)[0], level, noisy)
    errors = (clips - estimate).flatten(1)
    assert (errors.T @ noisy.flatten(1) / len(errors)).abs().max() < 0.01  # orthogonal to what it saw


def test_the_page_has_the_numbers_of_parameters_of_the_presets(toy: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    name, *_, parameters = next(row for row in toy.size_rows(("vdm_bair",)))
    assert f"| {name} |" in page and f"| {parameters} |" in page
    for preset in toy.PRESET_NAMES:
        assert f"| {preset} |" in page
    for name in toy.GIVEN:
        assert f"| {name} | replacement |" in page


def test_sections_below_the_tables_are_kept(toy: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index("\n## A model of text") :]
    assert toy.render_markdown([], [], page).endswith(section) and "## " not in toy.render_markdown([], [])


@pytest.mark.slow
def test_the_page_has_every_size_as_built(toy: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for row in toy.size_rows():
        assert f"| {' | '.join(row)} |" in page
