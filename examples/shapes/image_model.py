"""Put a text encoder, an autoencoder and a U-Net together, to an image pipeline; a new U-Net is to be trained."""

from argparse import ArgumentParser
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_video import UNetVideoConditionModel


def main(text: Path, autoencoder: Path, unet_config: Path, trained: Path | None, folder: Path) -> None:
    torch.manual_seed(0)
    if trained is None:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(unet_config))
    else:
        unet = UNetVideoConditionModel.from_pretrained(trained).to_image_model()
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(autoencoder),
        text_encoder=CLIPTextModel.from_pretrained(text / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(text / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--text_dir", type=Path, required=True, help="Output of text_encoder.py")
    parser.add_argument("--autoencoder_dir", type=Path, required=True, help="Output of train_autoencoder.py")
    parser.add_argument("--unet_config", type=Path, default=Path(__file__).with_name("unet.json"))
    parser.add_argument("--unet_dir", type=Path, help="Video U-Net to take the image model of")
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    main(options.text_dir, options.autoencoder_dir, options.unet_config, options.unet_dir, options.output_dir)
