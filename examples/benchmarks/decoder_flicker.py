"""
What temporal layers in a decoder do to flicker, next to as many further updates of the image decoder.

For each seed an image autoencoder, `start`, is trained on the first three quarters of every video: clips at the rate
of the video, cropped to strips. Three runs of equal length go on from it, on the same clips, and leave its encoder as
it is: `image` trains the decoder (train_autoencoder.py), `temporal` trains temporal layers in the frozen decoder
(train_video_decoder.py) without a discriminator, `adversarial` with one, as is the default. Then all of them
reconstruct whole frames of the last quarters, from latents drawn as pipelines draw them, and from the modes. Flicker
is the mean absolute difference between the frame-to-frame changes of reconstruction and original, for values in
[-1, 1].

    python examples/benchmarks/decoder_flicker.py CLIPS --work-dir runs/decoder_flicker
    python examples/benchmarks/decoder_flicker.py CLIPS --seeds 3 --json flicker.json -- --disc_weight 0.1

What stands behind `--` goes to the adversarial run. Clips are shrunk and written as images first. Stopped, the
same command goes on; runs that are done are not done again.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmark_tools import check_json_file, describe_load, describe_run, show, verdict, write_json
from diffusers import AutoencoderKL
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusers_video import AutoencoderKLVideo
from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.export import export_clips
from diffusers_video.data.planning import plan_clips
from diffusers_video.data.settings import PlanSettings
from diffusers_video.pipelines.latents import decode_latents, encode_mode, encode_video, scale_latents
from diffusers_video.training.reconstruction import heldout_reconstruction, reconstruction_loss


TRAIN = [sys.executable, "-m", "diffusers_video.cli", "train", "--cpu", "--script"]
FPS = 8  # of every clip as training sees it, frame by frame, whatever the rate of its video
SPANS = {"train": (0, 0.75), "heldout": (0.75, 1)}
CHANNELS = (16, 32)
IMAGE_MODEL = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * len(CHANNELS),
    "up_block_types": ("UpDecoderBlock2D",) * len(CHANNELS),
    "layers_per_block": 1,
    "latent_channels": 4,
    "mid_block_add_attention": False,
    "norm_num_groups": 1,
}
MODELS = ("start", "image", "temporal", "adversarial")
LATENTS = ("drawn", "mode")
SHARED = {
    "random_flip": True,
    "random_crop": True,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 50,
    "learning_rate": 2e-3,
    "adam_beta2": 0.99,
    "channels_last": True,
    "checkpointing_steps": 500,
    "checkpoints_total_limit": 1,
}
FIRST = {"learning_rate": 3e-3, "zero_init_residuals": True}


def write_clips(videos: Path, work: Path, bucket: str) -> dict[str, Path]:
    """
    Write the clips that are trained on and those that are held out, at the size of training and as images.

    Args:
        videos (`Path`): A folder of videos.
        work (`Path`): Where the folders go, unless they are there.
        bucket (`str`): Size and length of the clips, such as `"128x128@8"`.

    Returns:
        `dict[str, Path]`: Folders `train` and `heldout`; no frame lies in both.
    """
    folders = {name: work / name for name in SPANS}
    for name, folder in folders.items():
        if not (folder / "metadata.jsonl").is_file():
            plan = plan_clips(videos, PlanSettings(buckets=[bucket], fps=None, span=SPANS[name]))
            for path in export_clips(plan, folder, file_format="png"):
                (path / "video.json").unlink()  # the rate of the video: training reads all clips at one rate
    return folders


def train(script: str, out: Path, settings: dict[str, Any], *flags: str) -> Path:
    """
    Train a stage, from its last checkpoint if there is one, unless it is done.

    Args:
        script (`str`): Name of the script, as `diffusers-video train` takes it.
        out (`Path`): Its output folder.
        settings (`dict[str, Any]`): Its settings.
        flags (`str`): Further ones; they overrule the others.

    Returns:
        `Path`: `out`.
    """
    if not (out / "config.json").is_file():
        file = out.with_suffix(".json.yaml")  # JSON is YAML
        file.write_text(json.dumps({**settings, "output_dir": str(out)}), encoding="utf-8")
        subprocess.run([*TRAIN, script, str(file), "--resume_from_checkpoint", "latest", *flags], check=True)
    return out


def load_clips(folder: Path, bucket: str) -> VideoClipDataset:
    """Read clips that [`write_clips`] wrote."""
    return VideoClipDataset(plan_clips(folder, PlanSettings(buckets=[bucket], fps=FPS, image_fps=FPS)))


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, latents: str, videos: Tensor) -> Tensor:
    """Reconstruct videos as pipelines do, by an autoencoder of images or of videos, from one kind of `LATENTS`."""
    if latents == "drawn":
        return decode_latents(vae, encode_video(vae, videos, torch.Generator().manual_seed(0)))
    return decode_latents(vae, scale_latents(vae, encode_mode(vae, videos)))


def measure(vae: AutoencoderKL, heldout: VideoClipDataset) -> dict[str, dict[str, dict[str, float]]]:
    """
    Reconstruct held-out clips.

    Args:
        vae (`AutoencoderKL`): An autoencoder of images or of videos.
        heldout ([`VideoClipDataset`]): The clips.

    Returns:
        `dict`: For each of `LATENTS`, and in it for each text of a video and `"all"`, the mean over all clips:
        `heldout_psnr` in dB and `heldout_flicker`.
    """
    clips = [heldout[index] for index in range(len(heldout))]
    texts = sorted({clip["text"] for clip in clips})
    groups = {text: [clip for clip in clips if clip["text"] == text] for text in texts} | {"all": clips}
    loss_fn, device = partial(reconstruction_loss, kind="l1"), torch.device("cpu")
    return {
        latents: {
            name: heldout_reconstruction(partial(reconstruct, vae, latents), loss_fn, group, device)
            for name, group in groups.items()
        }
        for latents in LATENTS
    }


def train_models(
    seed: int, work: Path, settings: dict[str, Any], steps: tuple[int, int], flags: list[str]
) -> list[Path]:
    """
    Train the models of a seed.

    Args:
        seed (`int`): Of weights, noise and the order of clips.
        work (`Path`): Where their folders go.
        settings (`dict[str, Any]`): Settings that all runs share.
        steps (`tuple[int, int]`): Updates of the first run, and of each run that goes on from it.
        flags (`list[str]`): Further settings of the adversarial run.

    Returns:
        `list[Path]`: Their folders, in the order of `MODELS`.
    """
    folders = [work / f"seed-{seed}-{name}" for name in MODELS]
    model = work / "image_model.json"
    model.write_text(json.dumps(IMAGE_MODEL), encoding="utf-8")
    settings = {**SHARED, **settings, "seed": seed}
    new = {**FIRST, "model_config_name_or_path": str(model), "max_train_steps": steps[0]}
    train("autoencoder", folders[0], {**settings, **new})
    settings |= {"pretrained_model_name_or_path": str(folders[0]), "max_train_steps": steps[1]}
    train("autoencoder", folders[1], {**settings, "train": "decoder"})
    train("video-decoder", folders[2], settings, "--disc_weight", "0")
    train("video-decoder", folders[3], settings, *flags)
    return folders


def load(folder: Path) -> AutoencoderKL:
    """Load the autoencoder that a run left, of images or of videos."""
    kind = AutoencoderKL.load_config(folder)["_class_name"]
    return {"AutoencoderKL": AutoencoderKL, "AutoencoderKLVideo": AutoencoderKLVideo}[kind].from_pretrained(folder)


def check_encoders(start: AutoencoderKL, others: list[AutoencoderKL]) -> None:
    """
    Make sure that the latents stayed.

    Raises:
        RuntimeError: If a weight of an encoder changed.
    """
    encoder = ("encoder.", "quant_conv.")
    before = {name: value for name, value in start.state_dict().items() if name.startswith(encoder)}
    for other in others:
        after = other.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
        if changed:
            raise RuntimeError(f"The encoder must stay as it was, but {changed[0]!r} changed.")


def flicker_table(seeds: dict[str, dict[str, Any]]) -> tuple[Table, list[str]]:
    """Show PSNR and flicker of each seed and video for every model, and say for each seed whether the bars hold."""
    columns = [f"{name} {unit}" for unit in ("dB", "flicker") for name in MODELS]
    table = Table("seed", "latents", "clips", *columns, title="PSNR and flicker of held-out clips")
    verdicts = []
    for seed, models in seeds.items():
        for latents in LATENTS:
            for group in models["start"][latents]:
                numbers = [models[name][latents][group] for name in MODELS]
                ratios = [f"{number['heldout_psnr']:.2f}" for number in numbers]
                table.add_row(
                    seed, latents, group, *ratios, *(f"{number['heldout_flicker']:.4f}" for number in numbers)
                )
            start, *others = (models[name][latents]["all"] for name in MODELS)
            for name, other in zip(MODELS[1:], others, strict=True):
                what = f"seed {seed}, latents {latents}, {name} beside start"
                verdicts.append(verdict(f"{what}: flicker", other["heldout_flicker"] / start["heldout_flicker"], 1))
                verdicts.append(verdict(f"{what}: lost dB", start["heldout_psnr"] - other["heldout_psnr"], 0))
    return table, verdicts


def main(
    videos: Annotated[Path, typer.Argument(exists=True, help="Folder of videos.")],
    flags: Annotated[list[str] | None, typer.Argument(help="Settings of the adversarial run, behind `--`.")] = None,
    work_dir: Annotated[Path, typer.Option(help="Where clips and models go.")] = Path("runs/decoder_flicker"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds, from 0.")] = 2,
    resolution: Annotated[int, typer.Option(min=64, help="Side of a frame; strips are a quarter as high.")] = 128,
    num_frames: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 8,
    image_steps: Annotated[int, typer.Option(min=1, help="Updates of the image autoencoder.")] = 1000,
    further_steps: Annotated[int, typer.Option(min=1, help="Updates of each run that goes on from it.")] = 400,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Measure what temporal layers in a decoder do to flicker."""
    check_json_file(json_file)
    work_dir.mkdir(parents=True, exist_ok=True)
    bucket = f"{resolution}x{resolution}@{num_frames}"
    folders = write_clips(videos, work_dir, bucket)
    settings = {"train_data_dir": str(folders["train"]), "heldout_data_dir": str(folders["heldout"])}
    settings |= {"width": resolution, "height": resolution // 4, "num_frames": num_frames, "fps": FPS}
    heldout = load_clips(folders["heldout"], bucket)
    numbers = {**describe_run(), "clips": bucket, "steps": [image_steps, further_steps], "seeds": {}}
    for seed in range(seeds):
        runs = train_models(seed, work_dir, settings, (image_steps, further_steps), flags or [])
        models = [load(folder) for folder in runs]
        check_encoders(models[0], models[1:])
        measured = [measure(model, heldout) for model in models]
        numbers["seeds"][str(seed)] = dict(zip(MODELS, measured, strict=True))
    console = Console()
    show(console, *flicker_table(numbers["seeds"]))
    console.print(describe_load())
    if json_file is not None:
        write_json(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
