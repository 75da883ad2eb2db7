"""What autoencoders share that take whole videos and work on them in overlapping windows."""

from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor


class WindowedCodingMixin:
    """Tiled coding for autoencoders whose `encode` and `decode` follow `use_tiling`."""

    def tiled_decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """
        Decode latents in overlapping tiles; `enable_tiling` makes `decode` do so.

        Args:
            z (`torch.Tensor` of shape `(batch_size, c, f, h, w)`): Latents as the encoder gives them.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] or `tuple`: Videos.
        """
        former, self.use_tiling = self.use_tiling, True
        try:
            return self.decode(z, return_dict)
        finally:
            self.use_tiling = former

    def tiled_encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """
        Encode videos in overlapping tiles; `enable_tiling` makes `encode` do so.

        Args:
            x (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos in [-1, 1].
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.models.modeling_outputs.AutoencoderKLOutput`] or `tuple`: The posterior of the latents.
        """
        former, self.use_tiling = self.use_tiling, True
        try:
            return self.encode(x, return_dict)
        finally:
            self.use_tiling = former


def check_videos(name: str, videos: Tensor, channels: int) -> None:
    """
    Refuse what is no batch of videos, or of latents of videos.

    Args:
        name (`str`): Name of the argument.
        videos (`torch.Tensor`): What was given.
        channels (`int`): Channels that it must have.

    Raises:
        ValueError: If it has other axes or channels.
    """
    if videos.dim() != 5 or videos.shape[1] != channels:
        raise ValueError(
            f"`{name}` must have the shape (batch_size, {channels}, num_frames, height, width), but has shape"
            f" {tuple(videos.shape)}. Add the axis of frames; a single image is a video of one frame."
        )


def check_chunks(size: int | None, overlap: int) -> None:
    """
    Refuse windows over frames that cannot be laid.

    Args:
        size (`int`, *optional*): `decode_chunk_size`.
        overlap (`int`): `decode_chunk_overlap`.

    Raises:
        ValueError: If the size is below 1, or the overlap below 0 or not below the size.
    """
    if size is not None and size < 1:
        raise ValueError(f"`decode_chunk_size` must be at least 1, but is {size}. `None` decodes a video at once.")
    if overlap < 0 or (size is not None and overlap >= size):
        raise ValueError(
            f"`decode_chunk_overlap` must be at least 0 and below `decode_chunk_size`={size}, but is {overlap}. Choose"
            " a smaller overlap or larger chunks."
        )
