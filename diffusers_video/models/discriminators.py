"""Discriminators: networks that tell real clips from made ones; they are used in training only."""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


# Shapes: B videos, C channels, F frames, H height, W width.


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
