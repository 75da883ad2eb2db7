"""Frames of a video that are given: checked, encoded, held while sampling, and put back unchanged."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w).

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from diffusers_video.conditioning.frames import MECHANISMS, FrameCondition
from diffusers_video.conditioning.noise import draw_noise
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoisers import is_causal, reads_given_frames, told_numbers
from diffusers_video.pipelines.latents import PIXEL_CHANNELS, encode_video, frames_per_latent, latents_shape
from diffusers_video.pipelines.video_input import load_video, resize_video


DEFAULT_RECONSTRUCTION_SCALE = 2.0


@dataclass(frozen=True)
class GivenFrames:
    """
    The given frames of one sampling run, at their places.

    Args:
        mechanism (`str`): `"context"`, `"reconstruction"` or `"replacement"`.
        latents (`torch.Tensor` of shape `(B, c, F, h, w)`): Latents of the given frames, zeros elsewhere.
        told (`torch.Tensor` of the same shape): What a model with context is told of them, with noise if asked for.
        strengths (`tuple[float, ...]`): Part of the run over which each of F frames is in force; 0 if it is not given.
        scale (`float`, *optional*, defaults to 0.0): Weight of reconstruction guidance.
    """

    mechanism: str
    latents: Tensor
    told: Tensor
    strengths: tuple[float, ...]
    scale: float = 0.0

    def in_force(self, progress: float) -> Tensor | None:
        """
        Tell which frames are in force.

        Args:
            progress (`float`): Part of the run that is done, in [0, 1).

        Returns:
            `torch.Tensor` of shape `(F,)`: `torch.bool`; `None` if no frame is.
        """
        mask = [strength > progress for strength in self.strengths]
        return torch.tensor(mask, device=self.latents.device) if any(mask) else None

    def denoiser_arguments(self, contexts: Sequence[bool], in_force: Tensor) -> dict[str, Tensor]:
        """
        Lay the context out as the denoiser takes it.

        Args:
            contexts (`Sequence[bool]`): For each group of B rows, whether it sees the given frames.
            in_force (`torch.Tensor` of shape `(F,)`): From [`in_force`].

        Returns:
            `dict[str, torch.Tensor]`: `context_latents` and `frame_mask`.
        """
        batch_size = self.told.shape[0]
        masks = [(in_force if is_seen else torch.zeros_like(in_force)).expand(batch_size, -1) for is_seen in contexts]
        return {"context_latents": self.told.repeat(len(contexts), 1, 1, 1, 1), "frame_mask": torch.cat(masks)}

    def hold(
        self, latents: Tensor, noise: Tensor, timestep: Tensor, scheduler: SchedulerMixin, in_force: Tensor | None
    ) -> Tensor:
        """
        Replace the frames in force by the given ones with noise of the present step.

        Args:
            latents (`torch.Tensor` of shape `(B, c, F, h, w)`): Noisy latents.
            noise (`torch.Tensor` of the same shape): Unit noise, the same in every step.
            timestep (`torch.Tensor`): The timestep.
            scheduler (`SchedulerMixin`): At this step.
            in_force (`torch.Tensor` of shape `(F,)`, *optional*): From [`in_force`].

        Returns:
            `torch.Tensor` of the same shape.

        Source:
            VDM (arXiv:2204.03458), Section 3.1, the replacement method; its noise is drawn anew in every step.
        """
        if in_force is None:
            return latents
        noisy = scheduler.add_noise(self.latents, noise, timestep.reshape(1).repeat(len(latents)))
        return torch.where(in_force[:, None, None], noisy.to(latents.dtype), latents)

    def put_back(self, latents: Tensor) -> Tensor:
        """
        Put the frames that are in force to the end back unchanged.

        Args:
            latents (`torch.Tensor` of shape `(B, c, F, h, w)`): Denoised latents.

        Returns:
            `torch.Tensor` of the same shape.
        """
        whole = torch.tensor([strength >= 1 for strength in self.strengths], device=latents.device)
        return torch.where(whole[:, None, None], self.latents, latents)


class GivenFramesMixin:
    """
    Frame conditions of a call, checked and encoded.

    The class that inherits it has `vae`, `unet` and `scheduler`, and `max_noise_level` in its configuration.
    """

    def load_conditions(self, conditions: Sequence[FrameCondition], num_frames: int) -> list[Tensor]:
        """
        Bring the frames of conditions to tensors.

        Args:
            conditions (`Sequence[FrameCondition]`): What is given.
            num_frames (`int`): Frames of the clip.

        Returns:
            `list[torch.Tensor]`: For each condition frames `(videos, channels, num_given, height, width)` in [0, 1],
            or its latents.

        Raises:
            TypeError: If something is no condition, or frames have no form that is known.
            ValueError: If frames and places differ in number, or two frames have one place.
        """
        loaded, taken, factor = [], set(), frames_per_latent(self.vae)
        for condition in conditions:
            if not isinstance(condition, FrameCondition):
                raise TypeError(f"`conditions` must be a list of FrameCondition, but holds {condition!r}.")
            frames = condition.frames if condition.is_latent else load_video(condition.frames, "frames")
            if frames.shape[2] != len(condition.indices):
                raise ValueError(
                    f"`indices` must name one place for each of {frames.shape[2]} given frames, but names"
                    f" {len(condition.indices)}: {list(condition.indices)}."
                )
            length = num_frames // factor if condition.is_latent else num_frames
            if max(condition.indices) >= length:
                raise ValueError(
                    f"`indices` must lie in a clip of {length} frames, so be at most {length - 1}, but one is"
                    f" {max(condition.indices)}."
                )
            places = {index if condition.is_latent else index // factor for index in condition.indices}
            doubled = taken & places
            if doubled:
                raise ValueError(f"`indices` must not name a place twice, but two conditions name {sorted(doubled)}.")
            taken |= places
            loaded.append(frames)
        return loaded

    def check_given(
        self,
        conditions: Sequence[FrameCondition],
        loaded: Sequence[Tensor],
        mechanism: str,
        batch_size: int,
        size: tuple[int, int],
    ) -> None:
        """
        Refuse conditions that do not fit the models or the run.

        Args:
            conditions (`Sequence[FrameCondition]`): What is given.
            loaded (`Sequence[torch.Tensor]`): From [`load_conditions`].
            mechanism (`str`): How the frames reach the denoiser.
            batch_size (`int`): Number of prompts.
            size (`tuple[int, int]`): Height and width in pixels.

        Raises:
            ValueError: If frames do not fit, the model has no context, cannot see them from all others, or a noise
                level has no effect or differs.
        """
        for condition, frames in zip(conditions, loaded, strict=True):
            if condition.is_latent:
                channels, _, *side = latents_shape(self.vae, frames_per_latent(self.vae), *size)
                checks.check_tensor("frames", frames, (None, channels, None, *side))
            elif frames.shape[1] != PIXEL_CHANNELS:
                raise ValueError(f"`frames` must have {PIXEL_CHANNELS} colour channels, but have {frames.shape[1]}.")
            else:
                self._check_runs(condition)
            if frames.shape[0] not in (1, batch_size):
                raise ValueError(
                    f"`frames` must be of one video, or of one for each of {batch_size} prompts, but are of"
                    f" {frames.shape[0]}."
                )
        self.check_seen([index for condition in conditions for index in condition.indices], mechanism)
        levels = {condition.noise_level for condition in conditions} - {None}
        if len(levels) > 1:
            raise ValueError(f"`noise_level` must be one for all conditions of a clip, but is {sorted(levels)}.")
        self.check_noise_level(max(levels, default=None), mechanism)

    def _check_runs(self, condition: FrameCondition) -> None:
        factor, places = frames_per_latent(self.vae), condition.indices
        is_run = list(places) == list(range(places[0], places[0] + len(places)))
        if factor > 1 and not (is_run and places[0] % factor == 0 and len(places) % factor == 0):
            raise ValueError(
                f"`indices` must be whole groups of {factor} neighbouring frames, beginning at a multiple of {factor},"
                f" because `vae` makes one latent of so many, but are {list(places)}. Give such a run, or latents."
            )

    def check_seen(self, places: Sequence[int], mechanism: str) -> None:
        """
        Refuse given frames that frames before them would not see.

        Args:
            places (`Sequence[int]`): Places of the given frames in the clip.
            mechanism (`str`): How they reach the denoiser; guidance by the gradient reaches earlier frames always.

        Raises:
            ValueError: If the denoiser is causal, and a frame that is not given stands before one that is.
        """
        is_seen = mechanism == "reconstruction" or sorted(places) == list(range(len(places)))
        if is_causal(self.unet) and not is_seen:
            raise ValueError(
                "`unet` must let frames see later ones that are given, but its `temporal_attention` is 'causal', and"
                f" frames are given at {sorted(places)}. Build and train it with `temporal_attention='full'`, or take"
                " mechanism 'reconstruction'."
            )

    def check_noise_level(self, noise_level: int | None, mechanism: str) -> None:
        """
        Refuse a noise level that the model was not trained with.

        Args:
            noise_level (`int`, *optional*): The level.
            mechanism (`str`): How given frames reach the denoiser.

        Raises:
            TypeError: If it is no integer.
            ValueError: If it is out of range or has no effect.
        """
        if noise_level is None:
            return
        checks.check_integer("noise_level", noise_level, minimum=0)
        if mechanism != "context" or "noise_level" not in told_numbers(self.unet):
            raise ValueError(
                "`noise_level` has an effect only on a model that is told given frames and the level, but this one's"
                f" mechanism is {mechanism!r} and the numbers it is told are {list(told_numbers(self.unet))}."
                " Leave it out."
            )
        if noise_level > self.config.max_noise_level:
            raise ValueError(
                f"`noise_level` must be at most {self.config.max_noise_level}, the highest this model was trained"
                f" with, but is {noise_level}."
            )

    def choose_mechanism(self, mechanism: str | None, reconstruction_scale: float | None) -> tuple[str, float]:
        """
        Fill in and check how given frames reach the denoiser.

        Args:
            mechanism (`str`, *optional*): `"context"` for a model that was trained with it, `"reconstruction"`
                (guidance, for any model) or `"replacement"`; by default the first that the model can.
            reconstruction_scale (`float`, *optional*, defaults to 2.0): Weight of `"reconstruction"`.

        Returns:
            `tuple[str, float]`: Mechanism and weight.

        Raises:
            TypeError: If the weight is no number.
            ValueError: If the mechanism is unknown or the model lacks it, or the weight has no effect.
        """
        has_context = reads_given_frames(self.unet)
        if mechanism is None:
            mechanism = "context" if has_context else "reconstruction"
        if mechanism not in MECHANISMS:
            raise ValueError(f"`mechanism` must be one of {MECHANISMS}, but is {mechanism!r}.")
        if mechanism == "context" and not has_context:
            raise ValueError(
                "`mechanism` must not be 'context' with this `unet`, which was built without `context_channels` or"
                " `use_frame_mask`. Take 'reconstruction' or 'replacement', which any model can."
            )
        if reconstruction_scale is None:
            return mechanism, DEFAULT_RECONSTRUCTION_SCALE if mechanism == "reconstruction" else 0.0
        checks.check_number("reconstruction_scale", reconstruction_scale)
        if mechanism != "reconstruction":
            raise ValueError(f"`reconstruction_scale` has no effect on mechanism {mechanism!r}. Leave it out.")
        return mechanism, float(reconstruction_scale)

    def encode_given(
        self,
        conditions: Sequence[FrameCondition],
        loaded: Sequence[Tensor],
        shape: Sequence[int],
        size: tuple[int, int],
        like: Tensor,
        generator: torch.Generator | list[torch.Generator] | None,
        chunk_size: int | None = None,
    ) -> tuple[Tensor, tuple[float, ...]]:
        """
        Encode given frames and put them in their places.

        Args:
            conditions (`Sequence[FrameCondition]`): What is given.
            loaded (`Sequence[torch.Tensor]`): From [`load_conditions`].
            shape (`Sequence[int]`): Shape of the latents, `(B, c, F, h, w)`.
            size (`tuple[int, int]`): Height and width in pixels.
            like (`torch.Tensor`): Type and place wanted.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of the posterior's noise.
            chunk_size (`int`, *optional*): Frames encoded at once.

        Returns:
            `tuple`: Latents of `shape`, zeros where nothing is given, and one strength for each frame of them.

        Raises:
            FloatingPointError: If the autoencoder gives a NaN or an infinity.
        """
        latents = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
        strengths = [0.0] * shape[2]
        for condition, frames in zip(conditions, loaded, strict=True):
            frames, places = frames.repeat_interleave(shape[0] // frames.shape[0], dim=0), list(condition.indices)
            if not condition.is_latent:
                frames = encode_video(self.vae, resize_video(frames, *size) * 2 - 1, generator, chunk_size)
                checks.check_finite(frames, "Encoding the given frames", "Load `vae` in float32 or bfloat16.")
                factor = frames_per_latent(self.vae)
                places = [index // factor for index in places[::factor]]
            latents[:, :, places] = frames.to(like)
            for place in places:
                strengths[place] = float(condition.strength)
        return latents, tuple(strengths)

    def give_frames(
        self,
        latents: Tensor,
        strengths: Sequence[float],
        mechanism: tuple[str, float],
        noise_level: int | None,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> GivenFrames | None:
        """
        Make latents at their places the given frames of a run.

        Args:
            latents (`torch.Tensor` of shape `(B, c, F, h, w)`): From [`encode_given`], or of an earlier run.
            strengths (`Sequence[float]`): One for each frame.
            mechanism (`tuple[str, float]`): From [`choose_mechanism`].
            noise_level (`int`, *optional*): Timestep of the noise on what is told.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of this noise.

        Returns:
            [`GivenFrames`]: `None` if no frame is given.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.3 and appendix: conditioning augmentation.
        """
        if not any(strengths):
            return None
        told = latents
        if noise_level:
            source = {"generator": generator, "device": latents.device, "dtype": latents.dtype}
            noise = draw_noise(latents.shape, **source)
            signal = self.scheduler.alphas_cumprod[noise_level].double()
            told = float(signal.sqrt()) * latents + float((1 - signal).sqrt()) * noise
        return GivenFrames(mechanism[0], latents, told, tuple(strengths), mechanism[1])


def paste_frames(videos: Tensor, conditions: Sequence[Any], loaded: Sequence[Tensor]) -> Tensor:
    """
    Put given frames back into decoded videos, pixel by pixel.

    Args:
        videos (`torch.Tensor` of shape `(B, C, F, H, W)`): In [0, 1].
        conditions (`Sequence[FrameCondition]`): What was given; latents and frames not in force to the end are left
            as they were decoded.
        loaded (`Sequence[torch.Tensor]`): From [`GivenFramesMixin.load_conditions`].

    Returns:
        `torch.Tensor` of the same shape; float32 at least, so that frames of 8 bits come out exactly.
    """
    videos = videos.to(torch.promote_types(videos.dtype, torch.float32)).clone()
    for condition, frames in zip(conditions, loaded, strict=True):
        if condition.strength == 1 and not condition.is_latent:
            frames = resize_video(frames, *videos.shape[-2:])
            frames = frames.repeat_interleave(videos.shape[0] // frames.shape[0], dim=0)
            videos[:, :, list(condition.indices)] = frames.to(videos)
    return videos
