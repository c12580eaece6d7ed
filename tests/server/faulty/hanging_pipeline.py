"""A pipeline that hangs at its first drawing; in a folder of its own, so that a child finds it."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapid_diffusion import RapidDiffusionPipeline


@dataclass(frozen=True)
class LoadHanging:
    """Loads the model; the first process of all hangs when it is to draw."""

    model: str
    marker: str

    def __call__(self, *, graph: str | None = None) -> Any:
        pipeline = RapidDiffusionPipeline.from_pretrained(self.model, knowledge=graph)
        return Hanging(pipeline, Path(self.marker))


class Hanging:
    def __init__(self, pipeline: RapidDiffusionPipeline, marker: Path) -> None:
        self._pipeline, self._marker = pipeline, marker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(self, *prompts: Any, **arguments: Any) -> Any:
        # Not while the worker starts, which draws against the clock without a callback.
        if "callback_on_step_end" in arguments and not self._marker.exists():
            self._marker.touch()
            threading.Event().wait()
        return self._pipeline(*prompts, **arguments)
