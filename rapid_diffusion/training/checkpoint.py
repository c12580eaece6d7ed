"""What a training needs to go on exactly where it was, in one file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.files import TEMPORARY_PREFIX, replacing

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
Settings = Mapping[str, Any]


class Averages:
    """Exponential averages of everything that a module keeps; what is fixed stays as it is."""

    def __init__(self, module: nn.Module) -> None:
        live = module.state_dict()  # shares its memory with the module, so it is asked for once
        self.values = {name: value.clone() for name, value in live.items()}
        fixed = _fixed(module)
        pairs = [(self.values[name], live[name]) for name in live if name not in fixed]
        self._numbers = [pair for pair in pairs if pair[1].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[1].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """averages = decay · averages + (1 - decay) · module; whole numbers are copied."""
        averages, values = map(list, zip(*self._numbers, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in self._others:
            average.copy_(value)


@dataclass
class State:
    """A stage on its way: what changes from step to step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    averages: Averages
    settings: Settings
    step: int = 0
    seconds: float = 0.0
    #: Of the steps since the last line of the log.
    losses: list[float] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all; raises `OutputError`."""
        content = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.values,
            "settings": dict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)

    def restore(self, path: Path) -> None:
        """Go back to what `path` holds; nothing happens where there is no such file.

        What does not learn here stays as it is: it belongs to another stage, which may have
        learned on since.

        Raises `CheckpointError` where it is damaged, or was trained with other settings.
        """
        if not path.is_file():
            return
        content = _load(path)
        _check_settings(path, content.get("settings", {}), self.settings)
        try:
            fixed = _fixed(self.module)
            _tell_changes(path, content["module"], fixed)
            self.module.load_state_dict(content["module"] | fixed)
            self.optimizer.load_state_dict(content["optimizer"])
            for name, value in (content["averages"] | fixed).items():
                self.averages.values[name].copy_(value)
            self.step, self.seconds = content["step"], content["seconds"]
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                path, f"is of another configuration ({error}); train with --fresh to start over"
            ) from error
        self.losses = content.get("losses", [])


def _fixed(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that do not learn, by every name that `state_dict` has for them."""
    named = module.named_parameters(remove_duplicate=False)
    return {name: value.data for name, value in named if not value.requires_grad}


def _tell_changes(path: Path, before: Mapping[str, Tensor], fixed: Mapping[str, Tensor]) -> None:
    changed = [
        name
        for name, value in fixed.items()
        if name in before and not torch.equal(before[name].to(value.device), value)
    ]
    if changed:
        logger.warning(
            "%s learned around other weights of %d parameters (%s ...); it goes on around those "
            "of now",
            path, len(changed), changed[0],
        )  # fmt: skip


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


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of a training that was killed while it wrote."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*.tmp"):
        path.unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(path, f"cannot be read ({error}); train with --fresh") from error
    return content


def _check_settings(path: Path, before: Settings, now: Settings) -> None:
    """Settings that a checkpoint of an older version does not hold are taken as they are."""
    told = [
        f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in before
        if name in now and before[name] != now[name]
    ]
    if told:
        raise CheckpointError(
            path,
            f"is of another configuration: {'; '.join(told)}. Set it back to go on, train with "
            "--fresh to start over, or name another `output`",
        )
