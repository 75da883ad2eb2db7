"""Make a new x4 upscaler of pixels, to be trained: as long as it is new, it gives back the frames that it enlarges."""

from argparse import ArgumentParser
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlockCondNorm2D
from torch import nn

from diffusers_video import UNetVideoConditionModel, VideoSuperResolutionPipeline


COLOURS = 3


@torch.no_grad()
def give_back_low_res(unet: UNet2DConditionModel) -> None:
    """Lead the enlarged frames, the last channels of the input, to the output; residual blocks add nothing yet."""
    for module in unet.modules():
        if isinstance(module, ResnetBlockCondNorm2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    skip = unet.config.block_out_channels[0]  # the first of the channels that come from the same height and width
    shortcut = unet.up_blocks[-1].resnets[0].conv_shortcut
    for layer, first in ((unet.conv_in, COLOURS), (shortcut, skip), (unet.conv_out, 0)):
        layer.weight[:COLOURS] = 0
        for colour in range(COLOURS):
            layer.weight[colour, first + colour] = 1
        if layer.bias is not None:
            layer.bias[:COLOURS] = 0


def main(unet_config: Path, folder: Path) -> None:
    torch.manual_seed(0)
    image_unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(unet_config))
    give_back_low_res(image_unet)
    pipeline = VideoSuperResolutionPipeline(
        unet=UNetVideoConditionModel.from_unet2d(image_unet, "light"),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            rescale_betas_zero_snr=True,
            prediction_type="sample",
            timestep_spacing="trailing",
            clip_sample=False,
        ),
        low_res_scheduler=DDPMScheduler(beta_start=1e-6, beta_end=2e-5),  # little noise: 4 % of a unit at level 350
    )
    pipeline.save_pretrained(folder)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--unet_config", type=Path, default=Path(__file__).with_name("upscaler.json"))
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    main(options.unet_config, options.output_dir)
