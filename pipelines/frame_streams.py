"""Frames that pass through a stage piece by piece, in memory that does not grow with the video."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w).

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from diffusers_video.layers.windows import iter_windows
from diffusers_video.pipelines.latents import FRAMES_AT_ONCE, frames_per_latent, is_video_autoencoder


class FrameReader:
    """
    Read a stream of pieces of a video as if it were one tensor, from its beginning to its end.

    Args:
        pieces (`Iterator[torch.Tensor]`): Pieces of shape `(batch_size, channels, any, height, width)`, in order.
    """

    def __init__(self, pieces: Iterator[Tensor]) -> None:
        self._pieces = pieces
        self._held: Tensor | None = None
        self._start = 0

    def read(self, start: int, stop: int) -> Tensor:
        """
        Take frames, and let go of those before them.

        Args:
            start (`int`): First frame, not before that of an earlier call.
            stop (`int`): The frame after the last.

        Returns:
            `torch.Tensor` of shape `(batch_size, channels, stop - start, height, width)`.

        Raises:
            ValueError: If the stream ends before.
        """
        while self._held is None or self._start + self._held.shape[2] < stop:
            piece = next(self._pieces, None)
            if piece is None:
                raise ValueError(f"`pieces` must hold at least {stop} frames, but end before.")
            if self._held is None:
                self._held = piece
            else:
                kept = self._held[:, :, max(0, start - self._start) :]
                self._start += self._held.shape[2] - kept.shape[2]
                self._held = torch.cat([kept, piece], dim=2)
        return self._held[:, :, start - self._start : stop - self._start]


def limit_frames(pieces: Iterator[Tensor], num_frames: int) -> Iterator[Tensor]:
    """
    End a stream after a number of frames.

    Args:
        pieces (`Iterator[torch.Tensor]`): Pieces of shape `(batch_size, channels, any, height, width)`.
        num_frames (`int`): Frames wanted, at least 1.

    Returns:
        `Iterator[torch.Tensor]`: The same frames; nothing is asked for that is not wanted.
    """
    for piece in pieces:
        yield piece[:, :, :num_frames]
        num_frames -= piece.shape[2]
        if num_frames <= 0:
            return


def check_streaming(vae: nn.Module) -> None:
    """
    Refuse an autoencoder that decodes a video only as a whole.

    Args:
        vae (`torch.nn.Module`): An autoencoder of images, or one of videos.

    Raises:
        ValueError: If it has no `decode_chunk_size`.
    """
    if is_video_autoencoder(vae) and not vae.config.get("decode_chunk_size"):
        raise ValueError(
            f"`vae` must decode a long video in chunks of frames, but this {type(vae).__name__} decodes it whole. Set"
            " `vae.register_to_config(decode_chunk_size=16)` if it has such chunks."
        )


def decode_pieces(
    decode: Callable[[Tensor], Tensor],
    vae: nn.Module,
    pieces: Iterator[Tensor],
    num_frames: int,
    chunk_size: int | None,
) -> Iterator[Tensor]:
    """
    Decode a stream of latents to the frames that [`~LatentDecodingMixin.decode_frames`] decodes the whole to.

    Args:
        decode (`Callable`): Decodes the latents of one chunk, to about [-1, 1].
        vae (`torch.nn.Module`): The autoencoder, one of videos with `decode_chunk_size` in its configuration or one of
            images.
        pieces (`Iterator[torch.Tensor]`): Latents of shape `(batch_size, c, any, h, w)`.
        num_frames (`int`): Frames of the video, a multiple of those for one latent.
        chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once by an autoencoder of images.

    Returns:
        `Iterator[torch.Tensor]`: Frames of shape `(batch_size, channels, any, height, width)`, in [0, 1].
    """
    reader = FrameReader(pieces)
    if is_video_autoencoder(vae):
        scale = frames_per_latent(vae)
        windows = {"size": vae.config.decode_chunk_size, "overlap": vae.config.decode_chunk_overlap, "scale": scale}
        decoded = iter_windows(lambda *ends: decode(reader.read(*ends)), num_frames // scale, 2, **windows)
    else:
        size = chunk_size or FRAMES_AT_ONCE
        starts = range(0, num_frames, size)
        decoded = (decode(reader.read(start, min(start + size, num_frames))) for start in starts)
    for frames in decoded:
        yield (frames * 0.5 + 0.5).clamp(0, 1)


def paste_pieces(pieces: Iterator[Tensor], frames: Tensor, places: Sequence[int]) -> Iterator[Tensor]:
    """
    Put given frames back into a stream of decoded ones, pixel by pixel.

    Args:
        pieces (`Iterator[torch.Tensor]`): Frames of shape `(batch_size, channels, any, height, width)`, in [0, 1].
        frames (`torch.Tensor` of shape `(batch_size, channels, num_given, height, width)`): The given ones.
        places (`Sequence[int]`): Where they belong in the whole video.

    Returns:
        `Iterator[torch.Tensor]`: Of the same shapes; float32 at least, so that frames of 8 bits come out exactly.
    """
    start = 0
    for piece in pieces:
        piece = piece.to(torch.promote_types(piece.dtype, torch.float32))
        length = piece.shape[2]
        inside = [(number, place - start) for number, place in enumerate(places) if start <= place < start + length]
        if inside:
            piece = piece.clone()
            for number, place in inside:
                piece[:, :, place] = frames[:, :, number].to(piece)
        yield piece
        start += length
