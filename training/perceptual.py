"""The perceptual distance of images, by features of a pretrained network that is loaded by name."""

# Shapes: N images, C channels, H height, W width; c, h, w of a layer's features.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig
from transformers.image_processing_base import ImageProcessingMixin

from diffusers_video.training.checkpoints import fingerprint_weights


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualDistance(nn.Module):
    """
    Distance of the features of two images, layer by layer, each feature vector brought to unit length.

    Args:
        backbone (`torch.nn.Module`): Called with images `(N, C, H, W)`, normalised by mean and deviation; what it
            returns has `feature_maps`, a sequence of `(N, c, h, w)`, as any `AutoBackbone` of transformers. It is
            frozen.
        mean (`Sequence[float]`, *optional*): Mean of each channel, for pictures in [0, 1]; ImageNet's by default.
        std (`Sequence[float]`, *optional*): Standard deviation of each channel, likewise.

    Source:
        LPIPS (arXiv:1801.03924), Section 3.1, Equation 1, with all weights 1: the paper's "baseline" networks.
    """

    def __init__(
        self, backbone: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @classmethod
    def from_pretrained(cls, name: str) -> "PerceptualDistance":
        """
        Load a network.

        Args:
            name (`str`): Folder or Hub id of an image model that `AutoBackbone` of transformers reads, such as a
                ResNet. All its stages are compared. Mean and deviation come from its `preprocessor_config.json`,
                where there is one.

        Returns:
            [`PerceptualDistance`]

        Raises:
            OSError: If there is no such model.
            ValueError: If it is no network of images with stages.
        """
        template = AutoBackbone.from_config(AutoConfig.from_pretrained(name))
        stages = [stage for stage in template.stage_names if stage != "stem"]
        # `AutoBackbone.from_pretrained` of transformers 5.23 takes no folder, the class that it chooses does.
        backbone = type(template).from_pretrained(name, out_features=stages)
        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
        except OSError:
            settings = {}
        return cls(backbone, settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD))

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """
        Stay in evaluation mode.

        Args:
            mode (`bool`, *optional*, defaults to `True`): Not used: the network is frozen.

        Returns:
            [`PerceptualDistance`]: Itself.
        """
        return super().train(False)

    def forward(self, reconstructions: Tensor, images: Tensor) -> Tensor:
        """
        Compare images.

        Args:
            reconstructions (`torch.Tensor` of shape `(num_images, channels, height, width)`): Values around [-1, 1].
            images (`torch.Tensor` of the same shape): Values in [-1, 1].

        Returns:
            `torch.Tensor` of shape `(num_images,)`: At least 0, and 0 for equal images.
        """
        made, wanted = (
            self.backbone((batch.float() * 0.5 + 0.5 - self.mean) / self.std).feature_maps
            for batch in (reconstructions, images)
        )
        layers = [
            (nn.functional.normalize(one, eps=1e-10) - nn.functional.normalize(other, eps=1e-10)).square()
            for one, other in zip(made, wanted, strict=True)
        ]
        return torch.stack([layer.sum(1).mean((1, 2)) for layer in layers]).sum(0)


def load_distance(name: str | None, device: torch.device, identity: dict[str, Any]) -> PerceptualDistance | None:
    """
    Load the network of the perceptual loss of a run, if it has one.

    Args:
        name (`str`, *optional*): See [`PerceptualDistance.from_pretrained`].
        device (`torch.device`): Where it runs.
        identity (`dict[str, Any]`): Of the run; the network enters it by its weights.

    Returns:
        [`PerceptualDistance`], *optional*
    """
    if name is None:
        return None
    distance = PerceptualDistance.from_pretrained(name).to(device)
    identity["perceptual_model"] = f"weights {fingerprint_weights(distance)}"
    return distance
