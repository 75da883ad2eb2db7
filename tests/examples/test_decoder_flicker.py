"""The benchmark of flicker measures what it says, trains what it says, and runs from the command line at tiny size."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from diffusers import AutoencoderKL
from typer.testing import CliRunner

from diffusers_video import AutoencoderKLVideo, write_video

from ..tiny_models import shake_temporal_layers
from ..tiny_pipelines import tiny_vae


@pytest.fixture(scope="module")
def decoder_flicker(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("decoder_flicker")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two short videos of noise."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, fps in (("one", 10), ("two", 30)):
        write_video(torch.rand(12, 3, 64, 64), folder / f"{name}.mp4", fps=fps)
    lines = [json.dumps({"file_name": f"{name}.mp4", "text": name}) for name in ("one", "two")]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_no_frame_is_trained_on_and_held_out(decoder_flicker: ModuleType, videos: Path, tmp_path: Path) -> None:
    folders = decoder_flicker.write_clips(videos, tmp_path / "work", "64x64@3")
    counts = {name: len(list(folder.glob("*/*.png"))) for name, folder in folders.items()}
    assert counts == {"train": 2 * 9, "heldout": 2 * 3}
    rows = [json.loads(line) for line in (folders["heldout"] / "metadata.jsonl").read_text().splitlines()]
    assert [row["start"] for row in rows] == ["9/10", "3/10"]
    for name, folder in folders.items():
        clips = decoder_flicker.load_clips(folder, "64x64@3")
        assert len(clips) == {"train": 6, "heldout": 2}[name]


def test_numbers_are_those_of_each_video_and_of_all(decoder_flicker: ModuleType, videos: Path, tmp_path: Path) -> None:
    folders = decoder_flicker.write_clips(videos, tmp_path / "work", "64x64@3")
    heldout = decoder_flicker.load_clips(folders["heldout"], "64x64@3")
    vae = tiny_vae()
    image = decoder_flicker.measure(vae, heldout)
    for numbers in image.values():
        assert numbers.keys() == {"all", "one", "two"}
        for name in ("heldout_psnr", "heldout_flicker"):
            assert numbers["all"][name] == pytest.approx((numbers["one"][name] + numbers["two"][name]) / 2)
    assert image["drawn"]["all"]["heldout_flicker"] > image["mode"]["all"]["heldout_flicker"]
    new = AutoencoderKLVideo.from_autoencoder_kl(vae)
    assert decoder_flicker.measure(new, heldout)["mode"]["all"] == pytest.approx(image["mode"]["all"])
    shaken = decoder_flicker.measure(shake_temporal_layers(new), heldout)
    assert shaken["mode"]["all"] != pytest.approx(image["mode"]["all"])


def test_a_changed_encoder_is_found(decoder_flicker: ModuleType) -> None:
    start = tiny_vae()
    other = AutoencoderKLVideo.from_autoencoder_kl(start)
    torch.nn.init.zeros_(other.decoder.conv_in.weight)
    decoder_flicker.check_encoders(start, [other])
    other.quant_conv.bias.data[0] += 1e-6
    with pytest.raises(RuntimeError, match="'quant_conv.bias' changed"):
        decoder_flicker.check_encoders(start, [start, other])


@pytest.mark.slow
def test_tiny_run_prints_the_bars_and_writes_the_numbers(
    decoder_flicker: ModuleType, videos: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(decoder_flicker.main)
    work, numbers = tmp_path / "work", tmp_path / "numbers.json"
    options = ["--work-dir", str(work), "--seeds", "1", "--resolution", "64", "--num-frames", "3"]
    options += ["--image-steps", "2", "--further-steps", "1", "--json", str(numbers)]
    measured = []
    for _ in range(2):  # the second time nothing is trained
        result = CliRunner().invoke(app, [str(videos), *options, "--", "--disc_base_channels", "8"])
        assert result.exit_code == 0, result.output
        assert result.output.count("beside start: flicker") == result.output.count("beside start: lost dB") == 6
        measured.append(json.loads(numbers.read_text())["seeds"])
    assert measured[0] == measured[1] and set(measured[0]["0"]) == set(decoder_flicker.MODELS)
    for name, is_judged in (("temporal", False), ("adversarial", True)):
        assert ("discriminator_loss" in (work / f"seed-0-{name}" / "log.jsonl").read_text()) == is_judged
        assert isinstance(decoder_flicker.load(work / f"seed-0-{name}"), AutoencoderKLVideo)
    assert type(decoder_flicker.load(work / "seed-0-image")) is AutoencoderKL
