"""Set a tuned image model (DreamBooth, LoRA) in motion by temporal layers that were trained on the original one."""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_video import TextToVideoPipeline, UNetVideoConditionModel, write_video


def main(
    image_model: Annotated[Path, typer.Argument(help="Folder or file of the tuned image model.")],
    video_model: Annotated[
        Path, typer.Argument(help="Folder of the video pipeline made of the original image model.")
    ],
    prompt: Annotated[
        str, typer.Argument(help="What the video shows, in the words that the image model was tuned to.")
    ],
    output: Annotated[Path, typer.Option(help="The video.")] = Path("personal.mp4"),
    lora: Annotated[Path | None, typer.Option(help="Folder or file of LoRA layers of the image model.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames, if not those of the training.")] = None,
    max_distance: Annotated[int | None, typer.Option(help="Farthest frame seen: 8 for clips that are longer.")] = None,
    num_inference_steps: Annotated[int, typer.Option(help="Steps of the schedule.")] = 50,
    seed: int = 0,
) -> None:
    trained = TextToVideoPipeline.load_config(video_model)
    unet = UNetVideoConditionModel.from_pretrained(video_model, subfolder="unet")
    texts = {}
    if unet.config.temporal_cross_attention:  # the temporal layers go on reading the text they were trained with
        texts["temporal_text_encoder"] = CLIPTextModel.from_pretrained(video_model, subfolder="text_encoder")
        texts["temporal_tokenizer"] = CLIPTokenizer.from_pretrained(video_model, subfolder="tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        layers = unet.save_temporal_layers(folder)
        del unet
        settings = {name: trained[name] for name in ("num_frames", "fps")}
        pipe = TextToVideoPipeline.from_image_model(image_model, temporal_layers=layers, **texts, **settings)
    pipe.register_to_config(**{name: trained[name] for name in ("noise_prior", "noise_prior_strength")})
    if lora is not None:
        pipe.load_lora_weights(lora)
    if max_distance is not None:
        pipe.unet.set_temporal_max_distance(max_distance)
    generator = torch.Generator().manual_seed(seed)
    result = pipe(prompt, num_frames, generator=generator, num_inference_steps=num_inference_steps)
    write_video(result.frames[0], output, fps=result.fps)


if __name__ == "__main__":
    typer.run(main)
