"""The one loop that all stages share: AdamW, averaged weights, exact resume, several processes.

Killed at any moment it goes on from the last checkpoint and sees the same curve, because the
examples of a step, and what dropout drops in it, are a function of the step alone.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.errors import InvalidRequestError, NumericalError
from rapid_diffusion.files import write_bytes
from rapid_diffusion.precision import fast_dtype
from rapid_diffusion.seeds import mixed_seed
from rapid_diffusion.training.checkpoint import (
    CHECKPOINT,
    Averages,
    State,
    averaged_weights,
    remove_leftovers,
    save_weights,
)
from rapid_diffusion.training.config import LoopConfig, learning_rate
from rapid_diffusion.training.parts import WHOLE, Part, checkpoint_activations, dropout_of
from rapid_diffusion.training.processes import (
    Processes,
    average_gradients,
    join_processes,
    share_batch_norms,
)
from rapid_diffusion.training.progress import LOG, Reporter
from rapid_diffusion.training.stages import Stage

__all__ = ["CHECKPOINT", "LOG", "averaged_weights", "learning_rate", "run_loop", "save_weights"]

SAMPLES = "samples"


def run_loop(
    stage: Stage,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool = True,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Train up to `config.steps` and return the averaged weights.

    `folder` receives `checkpoint.pt`, `log.jsonl` and, of a stage that can draw, `samples/`; of
    several processes the main one writes. `watch` is called there when the log has grown.

    Raises `CheckpointError` for a checkpoint of another configuration, `NumericalError` for a
    loss that is no number, and `InvalidRequestError` naming a setting that this stage cannot have.
    """
    processes = join_processes()
    parts = _parts(stage, config, processes)
    if processes.is_main:
        _prepare(folder, resume=resume)
    processes.wait()
    if config.checkpoint_activations and not checkpoint_activations(stage.module):
        raise InvalidRequestError(
            f"loops.{stage.name}.checkpoint_activations",
            "true; allowed: false, for no network of this stage can compute activations anew",
        )
    if processes.count > 1:
        share_batch_norms(stage.module)
    state = _state(stage, config)
    state.restore(folder / CHECKPOINT)
    _Run(stage, config, folder, state, watch if processes.is_main else None).train(parts)
    processes.wait()
    return state.averages.values


class _Run:
    """The steps of one stage; without `watch` it writes nothing."""

    def __init__(
        self,
        stage: Stage,
        config: LoopConfig,
        folder: Path,
        state: State,
        watch: Callable[[], None] | None,
    ) -> None:
        self.stage, self.config, self.folder, self.state = stage, config, folder, state
        self.watch = watch
        self.device = next(stage.module.parameters()).device
        self.unread: list[Tensor] = []

    def train(self, parts: list[Part]) -> None:
        """All steps that are left, and a checkpoint at their end."""
        config, state = self.config, self.state
        self.stage.module.train()
        started, saved = time.monotonic() - state.seconds, time.monotonic()
        quiet = self.watch is None
        with Reporter(self.folder / LOG, self.stage.name, config, state.step, quiet) as report:
            while state.step < config.steps:
                self._step(parts)
                state.seconds = time.monotonic() - started
                report.advance()
                self._tell(report)
                if time.monotonic() - saved > config.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def _step(self, parts: list[Part]) -> None:
        config, state = self.config, self.state
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        self.unread.append(_backward(self.stage, config, state.step, parts))
        state.step += 1
        if self.device.type == "cpu":  # elsewhere, reading it waits for the device
            self._read_losses()
        nn.utils.clip_grad_norm_(self.stage.module.parameters(), config.gradient_clip)
        state.optimizer.step()
        state.averages.update(_decay(config.ema, state.step))

    def _read_losses(self) -> None:
        """Take the losses of the last steps off the device; a NaN ends the stage, unsaved."""
        if not self.unread:
            return
        values: list[float] = torch.stack(self.unread).tolist()
        first = self.state.step - len(values)
        self.unread.clear()
        for step, value in enumerate(values, first):
            if not math.isfinite(value):
                raise NumericalError(
                    f"stage {self.stage.name}: the loss is {value} at step {step}; lower "
                    f"learning_rate (now {self.config.learning_rate}) and resume from the last "
                    "checkpoint"
                )
        self.state.losses += values

    def _tell(self, report: Reporter) -> None:
        """A line of the log and a sheet of pictures, where it is time for them."""
        config, state = self.config, self.state
        if state.step % config.log_every == 0:
            self._read_losses()
            report.write(state.step, state.seconds, state.losses)
            state.losses = []
            if self.watch is not None:
                self.watch()
        if self.watch is None or self.stage.sheet is None or not config.sample_every:
            return
        if state.step % config.sample_every == 0 or state.step == config.steps:
            self._read_losses()
            (self.folder / SAMPLES).mkdir(exist_ok=True)
            picture = self.stage.sheet(state.averages.values)
            write_bytes(self.folder / SAMPLES / f"{state.step}.png", picture)
            self.watch()

    def _save(self) -> None:
        self._read_losses()
        if self.watch is not None:
            self.state.save(self.folder / CHECKPOINT)


def _parts(stage: Stage, config: LoopConfig, processes: Processes) -> list[Part]:
    """This process's parts of every batch."""
    count, name = processes.count * config.accumulate, f"loops.{stage.name}"
    if config.accumulate > 1 and stage.compares:
        raise InvalidRequestError(
            f"{name}.accumulate",
            f"{config.accumulate}; allowed: 1. This stage compares every row of a batch with every "
            "other, and in a part there are fewer: use checkpoint_activations or more processes",
        )
    if count > 1 and stage.part_loss is None:
        raise InvalidRequestError(
            name, "its loss cannot be split; train it in one process with accumulate = 1"
        )
    if config.batch % count:
        raise InvalidRequestError(
            f"{name}.batch",
            f"{config.batch}; allowed: multiples of {count} (processes x accumulate)",
        )
    first = processes.index * config.accumulate
    return [Part(first + number, count) for number in range(config.accumulate)]


def _prepare(folder: Path, *, resume: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if not resume:
        for path in (folder / CHECKPOINT, folder / LOG, *folder.glob(f"{SAMPLES}/*.png")):
            path.unlink(missing_ok=True)


def _state(stage: Stage, config: LoopConfig) -> State:
    # Which examples a step sees; all else in the loop's table may be changed on the way.
    own = {f"loops.{stage.name}.{name}": getattr(config, name) for name in ("batch", "seed")}
    optimizer = torch.optim.AdamW(
        _groups(stage.module, config.weight_decay),
        config.learning_rate,
        fused=True,
        betas=(0.9, 0.99),
    )
    return State(stage.module, optimizer, Averages(stage.module), {**own, **stage.settings})


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (biases, norms, gates) do not."""
    learning = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _backward(stage: Stage, config: LoopConfig, step: int, parts: list[Part]) -> Tensor:
    """Gradients of the whole batch in every parameter; its mean loss comes back."""
    device = next(stage.module.parameters()).device
    dtype = fast_dtype(device)
    losses = []
    for part in parts:
        # Compiled networks draw their dropout themselves: there, each part has its own.
        own = [part.index] if config.compile and part.count > 1 else []
        torch.manual_seed(mixed_seed(config.seed, step, *own))
        with dropout_of(stage.module, WHOLE if config.compile else part):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = stage.loss_of(step, part)
            (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach().float())
    return average_gradients(stage.module.parameters(), torch.stack(losses).mean())


def _decay(longest: float, step: int) -> float:
    """Short averages early, a 59th of the steps so far: weights still run away from the first.

    Longer ones are in the way of a rate that falls (docs/log.md, "averages of weights").
    """
    return min(longest, (1 + step) / (60 + step))
