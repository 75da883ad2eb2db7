"""Long videos of a denoiser that reads the clip before: whole clips one behind another, without other stages."""

# Shapes: C channels, F frames, H height, W width.

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_video.pipelines import checks
from diffusers_video.pipelines.frame_streams import limit_frames
from diffusers_video.pipelines.kept_clips import KeptClips
from diffusers_video.pipelines.long_video_setup import (
    CLIP_ARGUMENTS,
    EMBEDDINGS,
    FREE_ARGUMENTS,
    TEXTS,
    check_stage_arguments,
    describe_run,
)
from diffusers_video.pipelines.long_video_stages import PREDICTION, RunInterruptedError
from diffusers_video.pipelines.temporal_text import TEMPORAL_TEXT_ARGUMENTS
from diffusers_video.pipelines.unconditional_video import UnconditionalVideoPipeline
from diffusers_video.pipelines.work_folder import WorkFolder


TAKEN = (
    *("num_frames", "height", "width", "num_inference_steps", "eta", "generator", "output_type", "fps"),
    *("context_guidance_scale", "callback_on_step_end", "callback_on_step_end_tensor_inputs", *CLIP_ARGUMENTS),
)
SCHEDULE = ("timesteps", "sigmas")
# Arguments of the other stages, and the values that ask for nothing.
OTHERS = dict.fromkeys((*TEXTS, *EMBEDDINGS, *TEMPORAL_TEXT_ARGUMENTS, "guidance_scale", "frames"), (None,)) | {
    "num_passes": (None, 0),
    "num_context_frames": (None,),
    "interpolation_batch_size": (1,),
    "use_super_resolution": (None, False),
    "decode_chunk_size": (None,),
}
INSTEAD = {"guidance_scale": "context_guidance_scale", "frames": "previous_clip"}


@dataclass
class PreparedClips:
    """
    A long video of whole clips, ready to be drawn.

    Args:
        pipeline ([`UnconditionalVideoPipeline`]): Draws the clips.
        arguments (`Mapping[str, Any]`): From [`~ClipChainMixin.complete_stream`].
        kept ([`KeptClips`], *optional*): Where finished clips are kept.
    """

    pipeline: UnconditionalVideoPipeline
    arguments: Mapping[str, Any]
    kept: KeptClips | None

    @property
    def num_windows(self) -> int:
        """`int`: Clips."""
        return self.arguments["num_clips"]

    @property
    def fps(self) -> float:
        """`float`: Frames per second of the video."""
        return float(self.arguments["fps"])

    def pieces(self, on_window: Callable[[], Any]) -> Iterator[Tensor]:
        """
        Draw the whole video.

        Args:
            on_window (`Callable`): Called when a clip is finished.

        Returns:
            `Iterator[torch.Tensor]`: Frames of shape `(1, channels, any, height, width)` in [0, 1].

        Raises:
            RunInterruptedError: If a callback sets `_interrupt`.
        """
        pieces = self.pipeline.draw_clips(self.arguments, self.kept)
        for piece in limit_frames(pieces, self.arguments["num_frames"]):
            if self.pipeline.interrupt:
                raise RunInterruptedError
            on_window()
            yield piece


def prepare_clips(pipeline: DiffusionPipeline, arguments: Mapping[str, Any]) -> PreparedClips:
    """
    Check a call, and open its work folder.

    Args:
        pipeline ([`LongVideoPipeline`]): The pipeline; its `unet` reads the clip before.
        arguments (`Mapping[str, Any]`): All arguments of its call by name.

    Returns:
        [`PreparedClips`]

    Raises:
        TypeError: If a type is wrong.
        ValueError: If a value is, has no effect, or does not fit the models or the run on disk.
        OSError: If the work folder cannot be used.

    Source:
        PVDM (arXiv:2302.07685), Algorithm 1.
    """
    get = arguments.__getitem__
    _check_no_effect(arguments)
    checks.check_output(get("output_type"), get("return_dict"), None)
    extra = get("stage_arguments") or {}
    check_stage_arguments(extra, {PREDICTION: SCHEDULE})
    clips = pipeline.make_clips()
    call = {name: get(name) for name in TAKEN} | extra.get(PREDICTION, {})
    call["num_frames"] = pipeline.config.num_frames if call["num_frames"] is None else call["num_frames"]
    full = clips.complete_stream(**call)
    if get("work_dir") is None:
        return PreparedClips(clips, full, None)
    source = get("generator")
    kept = KeptClips(WorkFolder(get("work_dir")), source[0] if isinstance(source, list) else source)
    settings = {name: full[name] for name in (*TAKEN, *SCHEDULE) if name not in FREE_ARGUMENTS}
    kept.begin(describe_run(pipeline, settings))
    return PreparedClips(clips, {**full, "generator": kept.generator}, kept)


def _check_no_effect(arguments: Mapping[str, Any]) -> None:
    for name, values in OTHERS.items():
        if not any(arguments[name] is value for value in values):
            instead = f", or pass `{INSTEAD[name]}`" if name in INSTEAD else ""
            raise ValueError(
                f"`{name}` has no effect with this `unet`, which draws clip after clip, each behind the one before."
                f" Leave it out{instead}."
            )
    if arguments["output_type"] == "latent":
        raise ValueError(
            "`output_type` must not be 'latent' with this `unet`, whose latents have no frames. Choose another one, or"
            " take UnconditionalVideoPipeline for latents of clips."
        )
