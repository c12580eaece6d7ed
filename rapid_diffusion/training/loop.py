"""The one loop that all stages share: AdamW, averaged weights, exact resume, a log line a second.

Killed at any moment it goes on from the last checkpoint and sees the same curve, because the
examples of a step are a function of the step alone.
"""

import json
import math
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rapid_diffusion.errors import CheckpointError, NumericalError
from rapid_diffusion.files import replacing, write_bytes
from rapid_diffusion.precision import fast_dtype
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import mixed_seed
from rapid_diffusion.training.stages import Stage

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
LOG_EVERY = 50


@dataclass
class _Progress:
    """What a checkpoint holds besides the weights."""

    step: int
    seconds: float


def run_loop(
    stage: Stage,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool = True,
) -> dict[str, Tensor]:
    """Train up to `config.steps` and return the averaged weights.

    `folder` receives `checkpoint.pt` and `log.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        _groups(stage.module, config.weight_decay),
        config.learning_rate,
        fused=True,
        betas=(0.9, 0.99),
    )
    averages = {name: value.clone() for name, value in stage.module.state_dict().items()}
    path = folder / CHECKPOINT
    if not resume:
        path.unlink(missing_ok=True)
        (folder / LOG).unlink(missing_ok=True)
    progress = _restore(path, stage.module, optimizer, averages)
    _forget_after(folder / LOG, progress.step)
    stage.module.train()
    started, saved = time.monotonic() - progress.seconds, time.monotonic()
    bar = tqdm(
        total=config.steps, initial=progress.step, desc=stage.name, unit="step", file=sys.stderr
    )
    losses: list[float] = []
    try:
        while progress.step < config.steps:
            losses.append(_step(stage, optimizer, config, progress.step))
            progress.step += 1
            progress.seconds = time.monotonic() - started
            _average(averages, stage.module, _decay(config.ema, progress.step))
            bar.update()
            if progress.step % LOG_EVERY:
                continue
            bar.set_postfix(loss=f"{_write_log(folder / LOG, losses, config, progress):.4f}")
            losses.clear()
            # Only here, where no losses wait to be logged: a run that goes on logs the same means.
            if time.monotonic() - saved > config.checkpoint_seconds:
                _save(path, stage.module, optimizer, averages, progress)
                saved = time.monotonic()
    finally:
        bar.close()
    _save(path, stage.module, optimizer, averages, progress)
    return averages


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a stage's last checkpoint.

    Raises `CheckpointError` where there is none.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise CheckpointError(path, "no such file; train this stage first")
    averages: dict[str, Tensor] = _load(path)["averages"]
    return averages


def save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Keep the weights of a stage that is fitted at once, where `averaged_weights` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CHECKPOINT) as temporary:
        torch.save({"averages": weights}, temporary)


def learning_rate(config: LoopConfig, step: int) -> float:
    """A linear start over `warmup` steps, then flat, then to zero over the last `cooldown`."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))
    if config.cooldown:
        rate *= min(1.0, max(0.02, (config.steps - step) / config.cooldown))
    return rate


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (biases, norms, gates) do not."""
    learning = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _step(stage: Stage, optimizer: torch.optim.Optimizer, config: LoopConfig, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    device = next(stage.module.parameters()).device
    dtype = fast_dtype(device)
    torch.manual_seed(mixed_seed(config.seed, step))  # dropout too comes back after a resume
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        loss = stage.loss(step)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericalError(
            f"stage {stage.name}: the loss is {value} at step {step}; lower learning_rate "
            f"(now {config.learning_rate}) and resume from the last checkpoint"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(stage.module.parameters(), config.gradient_clip)
    optimizer.step()
    return value


def _decay(longest: float, step: int) -> float:
    """Short averages early, while the weights still run away from where they began."""
    return min(longest, (1 + step) / (10 + step))


@torch.no_grad()
def _average(averages: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            averages[name].lerp_(value, 1 - decay)
        else:
            averages[name].copy_(value)


def _write_log(path: Path, losses: list[float], config: LoopConfig, progress: _Progress) -> float:
    loss = sum(losses) / len(losses)
    line = {
        "step": progress.step,
        "samples": progress.step * config.batch,
        "loss": loss,
        "learning_rate": learning_rate(config, progress.step - 1),
        "seconds": round(progress.seconds, 2),
        "samples_per_second": round(progress.step * config.batch / progress.seconds, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return loss


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint: they will come again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_bytes(path, "".join(kept).encode())


def _save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: dict[str, Tensor],
    progress: _Progress,
) -> None:
    content = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "averages": averages,
        "step": progress.step,
        "seconds": progress.seconds,
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)


def _load(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(path, f"cannot be read ({error}); train with --fresh") from error
    return content


def _restore(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: dict[str, Tensor],
) -> _Progress:
    if not path.is_file():
        return _Progress(0, 0.0)
    content = _load(path)
    try:
        module.load_state_dict(content["module"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            path, f"is of another configuration ({error}); train with --fresh to start over"
        ) from error
    for name, value in content["averages"].items():
        averages[name].copy_(value)
    return _Progress(content["step"], content["seconds"])
