"""How long a request will take, learned from those before it: admission counts seconds, not heads.

A picture costs its steps (twice with guidance) and, apart from them, text, decoding and enlarging.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_NEWEST = 0.2  # weight of the latest observation


@dataclass(frozen=True)
class Measured:
    """One finished run: the parameters it was called with, and the seconds of its stations."""

    arguments: dict[str, Any]
    timings: dict[str, float]


class Estimator:
    """Predicts seconds of work. Not for several threads at once: the worker's lock guards it."""

    def __init__(self, defaults: Mapping[str, Any], measured: Iterable[Measured] = ()) -> None:
        self._defaults = defaults
        self._step: float | None = None  # one picture, one pass through the UNet
        self._rest: float | None = None  # one picture, everything else
        for run in measured:
            self.observe(run)

    def predict(self, arguments: Mapping[str, Any]) -> float:
        """Seconds of one request; a guess of one second a picture before anything was drawn."""
        rows = self._rows(arguments)
        if self._step is None or self._rest is None:
            return float(rows)
        return rows * (self._rest + self._passes(arguments) * self._step)

    def observe(self, run: Measured) -> None:
        """Learn from a finished run."""
        rows = self._rows(run.arguments)
        denoise = run.timings.get("denoise", 0.0)
        step = denoise / (rows * self._passes(run.arguments))
        rest = (sum(run.timings.values()) - denoise) / rows
        self._step = _moved(self._step, step)
        self._rest = _moved(self._rest, rest)

    def _passes(self, arguments: Mapping[str, Any]) -> int:
        wanted = {**self._defaults, **arguments}
        guided = wanted.get("guidance_scale", 1.0) != 1.0
        return int(wanted["num_inference_steps"]) * (2 if guided else 1)

    @staticmethod
    def _rows(arguments: Mapping[str, Any]) -> int:
        return int(arguments.get("num_images_per_prompt", 1))


def _moved(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _NEWEST * (value - mean)
