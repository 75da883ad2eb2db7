"""The only optimizer loop: accumulate, loss, backward, clip, step, schedule, average, log, validate, save."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from diffusers_video.conditioning.noise import make_generator
from diffusers_video.data.sampler import endless_batches
from diffusers_video.training.base_config import TrainingConfig
from diffusers_video.training.checkpoints import Checkpointer
from diffusers_video.training.run_log import LOG_NAME, RunLog


logger = get_logger(__name__)

EXIT_CODE_WHEN_STOPPED = 130

LossFunction = Callable[[nn.Module, dict[str, Any], torch.Generator], Tensor | dict[str, Tensor]]
Validation = Callable[[nn.Module, int], dict[str, float]]


@dataclass(kw_only=True)
class TrainingState:
    """
    What an update changes.

    Args:
        model (`torch.nn.Module`): The prepared model.
        optimizer (`Optimizer`): The prepared optimizer.
        schedule (`LRScheduler`): Schedule of the learning rate, stepped once per update.
        ema (`EMAModel`, *optional*): Moving average of the parameters that train.
        opponents (`list[torch.nn.Parameter]`, *optional*): Parameters that train against the others.
        step (`int`, *optional*, defaults to 0): Updates done.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    ema: EMAModel | None
    opponents: list[nn.Parameter] = field(default_factory=list)
    step: int = 0

    @property
    def trained(self) -> list[nn.Parameter]:
        """`list[torch.nn.Parameter]`: The parameters that train, without the opponents."""
        return _trained_parameters(self.model, self.opponents)


def fit(
    accelerator: Accelerator,
    model: nn.Module,
    loader: DataLoader,
    loss_fn: LossFunction,
    config: TrainingConfig,
    *,
    identity: dict[str, Any],
    validate: Validation | None = None,
    opponent: dict[str, Any] | None = None,
) -> nn.Module:
    """
    Train a model, beginning anew or from a checkpoint.

    A run that was stopped and resumed ends as one that was not: bit for bit on the same machine.

    Args:
        accelerator (`Accelerator`): Where to run; model and optimizer are prepared here.
        model (`torch.nn.Module`): Its parameters with `requires_grad` train.
        loader (`DataLoader`): From [`build_loader`]; each process has its own part.
        loss_fn (`Callable`): `(model, batch, generator) -> loss`, all randomness from the generator. The batch also
            holds `step`, the updates done. With an opponent, several losses by name, `loss` and others: each has
            gradients for the parameters that are to lower it and for no others.
        config ([`TrainingConfig`]): Settings.
        identity (`dict[str, Any]`): What a run must share with the checkpoint that it resumes.
        validate (`Callable`, *optional*): `(model, step) -> numbers`, run before the first update, every
            `validation_steps` and after the last.
        opponent (`dict[str, Any]`, *optional*): The part of the model that trains against the rest, such as a
            discriminator: its `params`, and its own settings of the optimizer, such as `lr`. Its gradients are clipped
            on their own, and it is not averaged. Where models are sharded there can be none.

    Returns:
        `torch.nn.Module`: The trained model, unwrapped unless it is sharded; with `use_ema` it holds the average.

    Raises:
        CheckpointError: If the checkpoint is unfit, or none is wanted where there are some.
        FloatingPointError: If the loss is a NaN or an infinity.
        SystemExit: With code 130 after SIGINT or SIGTERM, when a checkpoint was saved.
    """
    max_train_steps = count_updates(config, loader)
    checkpointer = Checkpointer(accelerator, config.output_dir, identity, config.checkpoints_total_limit)
    chosen = checkpointer.choose(config.resume_from_checkpoint)
    state = _prepare(accelerator, model, config, max_train_steps, opponent)
    log = RunLog(Path(config.output_dir) / LOG_NAME, accelerator.is_main_process)
    if chosen is not None:
        _resume(state, loader, checkpointer, chosen)
    log.truncate(state.step if chosen else -1)
    run = _Run(accelerator, config, log, checkpointer, loader, validate, last_saved=state.step if chosen else None)
    if chosen is None:
        run.validate(state)
    batches = endless_batches(loader)
    bar = tqdm(
        total=max_train_steps, initial=state.step, desc="Training", disable=not accelerator.is_local_main_process
    )
    with bar, StopSignal() as stop:
        while state.step < max_train_steps:
            loss = train_update(accelerator, state, batches, loss_fn, config)
            stopped = run.record(state, loss, stop.is_set, bar)
            is_last = state.step == max_train_steps
            if is_last or _is_due(state.step, config.validation_steps):
                run.validate(state)
            if stopped or is_last or _is_due(state.step, config.checkpointing_steps):
                run.save(state)
            if stopped and not is_last:
                logger.info(f"Stopped after step {state.step}; go on with `--resume_from_checkpoint latest`.")
                raise SystemExit(EXIT_CODE_WHEN_STOPPED)
    if state.ema is not None:
        state.ema.copy_to(state.trained)
    return accelerator.unwrap_model(state.model)


def train_update(
    accelerator: Accelerator,
    state: TrainingState,
    batches: Iterator[dict[str, Any]],
    loss_fn: LossFunction,
    config: TrainingConfig,
) -> dict[str, Tensor]:
    """
    Do one optimizer update.

    Args:
        accelerator (`Accelerator`): With `gradient_accumulation_steps` set.
        state ([`TrainingState`]): Changed in place.
        batches (`Iterator`): Micro-batches; as many are taken as are accumulated.
        loss_fn (`Callable`): See [`fit`].
        config ([`TrainingConfig`]): Settings.

    Returns:
        `dict[str, torch.Tensor]`: `loss`, and the other losses if there are some, as means over this process's
        micro-batches; and `grad_norm` if clipped.
    """
    accumulated = config.gradient_accumulation_steps
    losses, measured = [], {}
    for micro_step in range(state.step * accumulated, (state.step + 1) * accumulated):
        batch = {**next(batches), "step": state.step}
        generator = make_generator(config.seed, accelerator.process_index, micro_step)
        with accelerator.accumulate(state.model):
            loss = loss_fn(state.model, batch, generator)
            terms = loss if isinstance(loss, dict) else {"loss": loss}
            accelerator.backward(sum(terms.values()))
            if accelerator.sync_gradients and config.max_grad_norm:
                measured["grad_norm"] = accelerator.clip_grad_norm_(state.trained, config.max_grad_norm)
                if state.opponents:  # float16's scale was taken off all gradients by the line above
                    nn.utils.clip_grad_norm_(state.opponents, config.max_grad_norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
        losses.append({name: term.detach().float() for name, term in terms.items()})
    if not accelerator.optimizer_step_was_skipped:  # float16 skips updates while it looks for a scale
        state.schedule.step()
        if state.ema is not None:
            state.ema.step(state.trained)
    state.step += 1
    return {name: torch.stack([terms[name] for terms in losses]).mean() for name in losses[0]} | measured


def count_updates(config: TrainingConfig, loader: DataLoader) -> int:
    """
    Tell how many updates a run has.

    Args:
        config ([`TrainingConfig`]): With `max_train_steps` or `num_train_epochs`.
        loader (`DataLoader`): The clips.

    Returns:
        `int`: Optimizer updates; passes over the clips are rounded up.
    """
    if config.max_train_steps is not None:
        return config.max_train_steps
    return -(-config.num_train_epochs * len(loader) // config.gradient_accumulation_steps)


class StopSignal:
    """
    Remember a SIGINT or SIGTERM, so that an update can be finished and saved.

    Launchers hand signals on to processes that got them already, so all within `PATIENCE` seconds count as one. A
    later one ends the process.
    """

    PATIENCE = 5.0
    _signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._first_time: float | None = None
        self._former: dict[int, Any] = {}

    @property
    def is_set(self) -> bool:
        """`bool`: Whether a signal came."""
        return self._first_time is not None

    def __enter__(self) -> "StopSignal":
        self._former = {number: signal.signal(number, self._receive) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._first_time is None:
            self._first_time = time.monotonic()
        elif time.monotonic() - self._first_time > self.PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@dataclass
class _Run:
    """What is done around the updates, in all processes alike."""

    accelerator: Accelerator
    config: TrainingConfig
    log: RunLog
    checkpointer: Checkpointer
    loader: DataLoader
    validation: Validation | None
    last_saved: int | None

    def record(self, state: TrainingState, measured: dict[str, Tensor], stop: bool, bar: tqdm) -> bool:
        """Log an update; tell whether any process was asked to stop."""
        device = self.accelerator.device
        losses = {name: value.to(device) for name, value in measured.items() if name != "grad_norm"}
        values = torch.stack([*losses.values(), torch.tensor(float(stop), device=device)])
        *means, stopped = self.accelerator.reduce(values, "mean").tolist()
        numbers = dict(zip(losses, means, strict=True))
        total = sum(means)
        if not np.isfinite(total):
            saved = "no checkpoint" if self.last_saved is None else f"checkpoint-{self.last_saved}"
            raise FloatingPointError(
                f"The loss of step {state.step} is {total}. Lower `learning_rate`, or train in bf16 or float32; the"
                f" last whole state is {saved}."
            )
        numbers["lr"] = state.schedule.get_last_lr()[0]
        if "grad_norm" in measured:
            numbers["grad_norm"] = float(measured["grad_norm"])
        self.log.append(state.step, **numbers)
        self.accelerator.log(numbers, step=state.step)
        bar.set_postfix(loss=f"{numbers['loss']:.4f}")
        bar.update()
        return stopped > 0

    def validate(self, state: TrainingState) -> None:
        """Measure the model, with averaged weights if there are some, and leave it as it was."""
        if self.validation is None:
            return
        model, trained = state.model, state.trained
        if state.ema is not None:
            state.ema.store(trained)
            state.ema.copy_to(trained)
        is_training = model.training
        model.eval()
        with torch.no_grad():
            numbers = self.validation(model, state.step)
        model.train(is_training)
        if state.ema is not None:
            state.ema.restore(trained)
        if numbers:
            self.log.append(state.step, **numbers)
            self.accelerator.log(numbers, step=state.step)
            logger.info(f"Step {state.step}: " + ", ".join(f"{key} {value:.6f}" for key, value in numbers.items()))

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, unless this step's is there."""
        if self.last_saved == state.step:
            return
        content = {"schedule": state.schedule.state_dict(), "sampler": self.loader.batch_sampler.state_dict()}
        if state.ema is not None:
            content["ema_optimization_step"] = state.ema.optimization_step
        self.checkpointer.save(state.step, content, state.ema)
        self.last_saved = state.step


def _prepare(
    accelerator: Accelerator,
    model: nn.Module,
    config: TrainingConfig,
    max_train_steps: int,
    opponent: dict[str, Any] | None,
) -> TrainingState:
    model.train()
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    opponents = [] if opponent is None else list(opponent["params"])
    trained = [{"params": _trained_parameters(model, opponents)}]
    if opponent is not None:
        trained.append({**opponent, "params": opponents})
    optimizer = build_optimizer(trained, config, accelerator.num_processes)
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=max_train_steps,
        num_cycles=config.lr_num_cycles,
    )
    model, prepared = accelerator.prepare(model, optimizer)
    state = TrainingState(model=model, optimizer=prepared, schedule=schedule, ema=None, opponents=opponents)
    if config.use_ema:
        if accelerator.distributed_type.value in ("FSDP", "DEEPSPEED"):
            raise ValueError("`use_ema` keeps whole weights and must be off where the model is sharded. Leave it out.")
        state.ema = EMAModel(state.trained, decay=config.ema_decay, use_ema_warmup=True)
    return state


def _trained_parameters(model: nn.Module, opponents: list[nn.Parameter]) -> list[nn.Parameter]:
    others = {id(parameter) for parameter in opponents}
    return [value for value in model.parameters() if value.requires_grad and id(value) not in others]


def build_optimizer(
    parameters: list[nn.Parameter] | list[dict[str, Any]], config: TrainingConfig, num_processes: int = 1
) -> Optimizer:
    """
    Make the AdamW that the settings ask for.

    Args:
        parameters (`list[torch.nn.Parameter]` or `list[dict[str, Any]]`): What trains, or groups of it with settings
            of their own.
        config ([`TrainingConfig`]): Settings.
        num_processes (`int`, *optional*, defaults to 1): For `scale_lr`.

    Returns:
        `Optimizer`

    Raises:
        ImportError: If `use_8bit_adam` is set and bitsandbytes is missing.
    """
    optimizer_class = torch.optim.AdamW
    if config.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit as optimizer_class
        except ImportError as error:
            raise ImportError("`use_8bit_adam` needs bitsandbytes: `pip install bitsandbytes`.") from error
    learning_rate = config.learning_rate
    if config.scale_lr:
        learning_rate *= config.train_batch_size * config.gradient_accumulation_steps * num_processes
    return optimizer_class(
        parameters,
        lr=learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )


def _resume(state: TrainingState, loader: DataLoader, checkpointer: Checkpointer, chosen: Path) -> None:
    content = checkpointer.load(chosen, state.ema)
    state.step = content["step"]
    state.schedule.load_state_dict(content["schedule"])
    loader.batch_sampler.load_state_dict(content["sampler"])
    if state.ema is not None:
        state.ema.optimization_step = content["ema_optimization_step"]
    logger.info(f"Resumed from {chosen} at step {state.step}")


def _is_due(step: int, every: int | None) -> bool:
    return bool(every) and step % every == 0
