"""Discriminators: networks that tell real clips from made ones; they are used in training only."""

from typing import NamedTuple

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


# Shapes: B videos, C channels, F frames, H height, W width.


class PatchJudgement(NamedTuple):
    """
    What a discriminator says of images or clips.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, 1, ...)`): A number per patch, high where it looks real.
        features (`list[torch.Tensor]`): Outputs of all its layers but the last, in order.
    """

    logits: Tensor
    features: list[Tensor]


class VideoPatchDiscriminator(ModelMixin, ConfigMixin):
    """
    Judge patches of a video, in space and time, by 3D convolutions.

    Args:
        in_channels (`int`, *optional*, defaults to 3): Channels of a frame.
        base_channels (`int`, *optional*, defaults to 64): Channels after the first layer; each further layer has twice
            as many, up to eight times.
        num_layers (`int`, *optional*, defaults to 3): Layers that halve frames, height and width, at least 1.
        norm_num_groups (`int`, *optional*, defaults to 8): Groups of the normalisations, a divisor of `base_channels`.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1.1: a patch-wise discriminator built of 3D convolutions, for videos
        only. Its layers are not published; here they are those of PatchGAN (arXiv:1611.07004, Section 3.2.2) in 3D.
        Unlike there, group normalisation stands for batch normalisation, so that no clip depends on the others of its
        batch, and the last layers keep the size, so that small patches of few frames can be judged.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 3, base_channels: int = 64, num_layers: int = 3, norm_num_groups: int = 8
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1, but is {num_layers}. PatchGAN has 3.")
        if base_channels < 1 or base_channels % norm_num_groups:
            raise ValueError(
                f"`base_channels` must be a multiple of `norm_num_groups`={norm_num_groups}, but is {base_channels}."
                " Choose other numbers."
            )
        halving = {"kernel_size": (3, 4, 4), "stride": 2, "padding": 1}
        layers = [nn.Conv3d(in_channels, base_channels, **halving), nn.LeakyReLU(0.2)]
        channels = base_channels
        for index in range(1, num_layers + 1):
            wider = base_channels * min(2**index, 8)
            shape = halving if index < num_layers else {"kernel_size": 3, "padding": 1}
            layers += [nn.Conv3d(channels, wider, bias=False, **shape), nn.GroupNorm(norm_num_groups, wider)]
            layers.append(nn.LeakyReLU(0.2))
            channels = wider
        layers.append(nn.Conv3d(channels, 1, kernel_size=3, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.02)  # as in PatchGAN

    def forward(self, videos: Tensor) -> Tensor:
        """
        Judge videos.

        Args:
            videos (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Values in [-1, 1];
                height and width at least `2 ** num_layers`.

        Returns:
            `torch.Tensor` of shape `(batch_size, 1, f, h, w)`: A number per patch, high where it looks real; `h` and
            `w` are height and width over `2 ** num_layers`, rounded down, and `f` the frames over it, rounded up.

        Raises:
            ValueError: If the videos are too small or have another number of axes.
        """
        smallest = 2**self.config.num_layers
        if videos.dim() != 5 or min(videos.shape[-2:]) < smallest:
            raise ValueError(
                "`videos` must have the shape (batch_size, channels, num_frames, height, width) with height and width"
                f" at least {smallest}, but has shape {tuple(videos.shape)}. Take larger crops or fewer `num_layers`."
            )
        return self.layers(videos)


class PatchFeatureDiscriminator(ModelMixin, ConfigMixin):
    """
    Judge patches of images or clips, and show the features that the judgement rests on.

    PVDM trains its autoencoder against two of them: one for a frame of each clip, one for the clips.

    Args:
        in_channels (`int`, *optional*, defaults to 3): Channels of a frame.
        base_channels (`int`, *optional*, defaults to 64): Channels after the first layer; each further layer has twice
            as many, up to 512.
        num_layers (`int`, *optional*, defaults to 3): Layers that halve all axes, at least 1.
        num_dims (`int`, *optional*, defaults to 2): 2 for images, 3 for clips.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        PatchGAN (arXiv:1611.07004, Section 3.2.2) with the layers and features of pix2pixHD (arXiv:1711.11585), in 2D
        and 3D as in PVDM's code (arXiv:2302.07685). Its batch normalisations are shared between processes by
        `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.
    """

    @register_to_config
    def __init__(self, in_channels: int = 3, base_channels: int = 64, num_layers: int = 3, num_dims: int = 2) -> None:
        super().__init__()
        if num_dims not in (2, 3):
            raise ValueError(f"`num_dims` must be 2 for images or 3 for clips, but is {num_dims}.")
        for name, value in (("num_layers", num_layers), ("base_channels", base_channels)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}. Leave it out for that of the paper.")
        conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[num_dims - 2]
        widths = [min(base_channels * 2**index, 512) for index in range(num_layers + 1)]
        self.layers = nn.ModuleList()
        for index, width in enumerate(widths):
            stride = 2 if index < num_layers else 1
            parts = [conv(widths[index - 1] if index else in_channels, width, kernel_size=4, stride=stride, padding=2)]
            parts += [norm(width)] if index else []
            self.layers.append(nn.Sequential(*parts, nn.LeakyReLU(0.2)))
        self.layers.append(nn.Sequential(conv(widths[-1], 1, kernel_size=4, padding=2)))
        for module in self.modules():
            if isinstance(module, conv):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, norm):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, sample: Tensor) -> PatchJudgement:
        """
        Judge images or clips.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`, or with `num_frames` before the
                height): Values in [-1, 1].

        Returns:
            [`PatchJudgement`]

        Raises:
            ValueError: If `sample` has another number of axes.
        """
        if sample.dim() != 2 + self.config.num_dims:
            axes = "num_frames, " if self.config.num_dims == 3 else ""
            raise ValueError(
                f"`sample` must have the shape (batch_size, channels, {axes}height, width) for a discriminator with"
                f" `num_dims`={self.config.num_dims}, but has shape {tuple(sample.shape)}."
            )
        features = []
        for layer in self.layers:
            sample = layer(sample)
            features.append(sample)
        return PatchJudgement(logits=sample, features=features[:-1])
