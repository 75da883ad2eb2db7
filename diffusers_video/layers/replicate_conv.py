"""Convolutions over frames, height and width that repeat the outermost values, and the blocks built of them."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


# Shapes: B videos, C channels, F frames, H height, W width.


def replicate_pad(hidden_states: Tensor, kernel_size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """
    Repeat the outermost values of each axis, so that a convolution without padding keeps or divides its length.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Features.
        kernel_size (`Sequence[int]`): Of the convolution, per axis.
        stride (`Sequence[int]`): Likewise, at most the size of the kernel.

    Returns:
        `torch.Tensor`: With `kernel_size - stride` more places per axis, half of them before; of an odd number one
        more before than behind.

    Source:
        LVDM (arXiv:2211.13221), Section 3.1: repeat padding in all three axes; sides as in its released code.
    """
    padding = []
    for kernel, step in zip(reversed(kernel_size), reversed(stride), strict=True):
        missing = kernel - step
        padding += [missing // 2 + missing % 2, missing // 2]
    return functional.pad(hidden_states, padding, mode="replicate") if any(padding) else hidden_states


class ReplicateConv3d(nn.Conv3d):
    """
    A `Conv3d` behind [`replicate_pad`]: an axis comes out `stride` times shorter, rounded down.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        kernel_size (`int`): Size of the kernel in all axes.
        stride (`tuple[int, int, int]`, *optional*, defaults to `(1, 1, 1)`): Steps over frames, height and width.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Convolve.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Features.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, f, h, w)`.
        """
        return super().forward(replicate_pad(hidden_states, self.kernel_size, self.stride))


class ReplicateConvTranspose3d(nn.ConvTranspose3d):
    """
    A `ConvTranspose3d` with a kernel of 4 behind [`replicate_pad`]: an axis comes out `stride` times longer.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        stride (`tuple[int, int, int]`): Factors for frames, height and width, 1 or 2 each.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=stride, padding=3)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Convolve.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Features.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, f, h, w)`.
        """
        return super().forward(replicate_pad(hidden_states, self.kernel_size, self.stride))


class ReplicateResnetBlock(nn.Module):
    """
    Two convolutions over frames, height and width, added to their input.

    Args:
        channels (`int`): Channels of input and output, a multiple of `num_groups`.
        num_groups (`int`, *optional*, defaults to 32): Groups of the normalisations, whose statistics are those of
            all frames together.

    Source:
        LVDM (arXiv:2211.13221), Section 3.1 and its released autoencoder.
    """

    def __init__(self, channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.conv1 = ReplicateConv3d(channels, channels, 3)
        self.norm2 = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.conv2 = ReplicateConv3d(channels, channels, 3)
        self.nonlinearity = nn.SiLU()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Add the residual.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Features.

        Returns:
            `torch.Tensor` of the same shape.
        """
        residual = self.conv1(self.nonlinearity(self.norm1(hidden_states)))
        return hidden_states + self.conv2(self.nonlinearity(self.norm2(residual)))


class ReplicateDownBlock(nn.Module):
    """
    A level of the encoder: a convolution that halves some axes, and a residual block.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output, a multiple of `num_groups`.
        stride (`tuple[int, int, int]`): 2 for the axes that are halved, 1 for the others.
        num_groups (`int`): Groups of the normalisations.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], num_groups: int) -> None:
        super().__init__()
        self.downsampler = ReplicateConv3d(in_channels, out_channels, 4, stride)
        self.resnet = ReplicateResnetBlock(out_channels, num_groups)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Run the level.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Features.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, f, h, w)`.
        """
        return self.resnet(self.downsampler(hidden_states))


class ReplicateUpBlock(nn.Module):
    """
    A level of the decoder: a convolution that doubles some axes, and two residual blocks.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output, a multiple of `num_groups`.
        stride (`tuple[int, int, int]`): 2 for the axes that are doubled, 1 for the others.
        num_groups (`int`): Groups of the normalisations.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], num_groups: int) -> None:
        super().__init__()
        self.upsampler = ReplicateConvTranspose3d(in_channels, out_channels, stride)
        self.resnets = nn.ModuleList(ReplicateResnetBlock(out_channels, num_groups) for _ in range(2))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Run the level.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Features.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, f, h, w)`.
        """
        hidden_states = self.upsampler(hidden_states)
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
        return hidden_states
