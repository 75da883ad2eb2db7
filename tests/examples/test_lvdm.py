"""The experiment of LVDM on `shapes`: its settings hold, its models fit each other, and drift is measured."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from diffusers_video import AutoencoderKL3D, UNetSpaceTimeModel
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.unconditional import load_unconditional
from diffusers_video.training.unconditional_config import UnconditionalConfig

from ..tiny_unconditional import tiny_unconditional


FOLDER = Path(__file__).parents[2] / "examples" / "lvdm"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location(f"lvdm_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_of_the_autoencoder_hold() -> None:
    files = [str(FOLDER / name) for name in ("autoencoder.yaml", "autoencoder.json")]
    config = parse_config(
        AutoencoderConfig, [files[0], "--model_config_name_or_path", files[1], "--output_dir", "out"]
    )
    vae = AutoencoderKL3D.from_config(json.loads(Path(files[1]).read_text()))
    assert vae.latents_shape(config.num_frames, config.resolution, config.resolution) == (4, 8, 8, 8)


@pytest.mark.parametrize(("name", "length"), [("denoiser", 8), ("prediction", 4), ("interpolation", 5)])
def test_settings_of_the_denoisers_hold_and_fit_the_autoencoder(name: str, length: int, tmp_path: Path) -> None:
    AutoencoderKL3D.from_config(json.loads((FOLDER / "autoencoder.json").read_text())).save_pretrained(tmp_path)
    flags = ["--model_config_name_or_path", str(FOLDER / "unet.json"), "--output_dir", "out"]
    flags += ["--pretrained_vae_name_or_path", str(tmp_path)]
    config = parse_config(UnconditionalConfig, [str(FOLDER / f"{name}.yaml"), *flags])

    class Clips(list):
        buckets = config.bucket_names()

    pipeline = load_unconditional(config, Clips([{"fps": config.fps}]))
    assert isinstance(pipeline.unet, UNetSpaceTimeModel)
    drawn = pipeline.config
    assert pipeline.vae.latents_shape(drawn.num_frames, drawn.height, drawn.width) == (4, length, 8, 8)
    assert pipeline.unet.config.use_frame_mask == (name != "denoiser")
    assert pipeline.unet.config.num_noise_levels == (None if name == "denoiser" else 250)


def test_drift_is_measured_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, numbers = tmp_path / "model", tmp_path / "drift.json"
    tiny_unconditional("video", use_frame_mask=True, num_noise_levels=11, max_noise_level=10).save_pretrained(model)
    drift = load("drift", monkeypatch)
    monkeypatch.setattr(drift, "NUM_TRUE_CLIPS", 24)
    options = {"num_videos": 3, "num_steps": 2, "num_inference_steps": 1, "latent_stride": 2, "seed": 0}
    for name, guidance in (("guided", "1.5"), ("not guided", "1")):
        drift.main([(name, str(model), "5", guidance)], numbers, None, **options)
    guided, plain = json.loads(numbers.read_text())
    assert (guided["name"], plain["name"]) == ("guided", "not guided")
    assert all(len(run[number]) == 3 for run in (guided, plain) for number in ("frechet", "colour_change"))
    assert guided["frechet"][1:] != plain["frechet"][1:]
    assert plain["colour_change"][0] == 0 and min(plain["colour_change"][1:]) > 0
    assert plain["frechet_of_true"] < min(plain["frechet"])


@pytest.mark.parametrize(
    ("model", "level", "file", "name"),
    [
        ("nothing", "5", "drift.json", "MODEL"),
        (".", "much", "drift.json", "NOISE_LEVEL"),
        (".", "5", "no/a.json", "existing folder"),
    ],
)
def test_drift_refuses_what_would_fail_later(
    model: str, level: str, file: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift = load("drift", monkeypatch)
    monkeypatch.setattr(drift, "measure_drift", lambda *_, **__: pytest.fail("work began"))
    runs = [("good", str(tmp_path), "5", "1"), ("bad", str(tmp_path / model), level, "1")]
    with pytest.raises(ValueError, match=name):
        drift.main(runs, tmp_path / file, None)


def test_drift_is_plotted_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drift, published = load("drift", monkeypatch), FOLDER.parents[1] / "docs" / "lvdm_drift.json"
    pictures = [tmp_path / name for name in ("first.svg", "second.svg")]
    for picture in pictures:
        drift.main([], published, picture)
    assert "<svg" in pictures[0].read_text() and pictures[0].read_bytes() == pictures[1].read_bytes()


def test_true_clips_are_nearer_than_those_of_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_unconditional("video").save_pretrained(tmp_path)
    distances = load("samples", monkeypatch).main(tmp_path, num_videos=24, num_inference_steps=1, seed=0)
    assert list(distances) == ["trained", "new weights", "true clips of another seed"]
    assert all(distances["true clips of another seed"][kind] < distances["trained"][kind] for kind in range(2))
