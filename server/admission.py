"""How long a request will take, learned from those before it: admission counts seconds, not heads.

A drawing costs its steps (twice with guidance) and, apart from them, text, decoding and enlarging.
Requests that are drawn together take longer than alone, and less than one after the other: so the
estimator learns how long they take as it is, and how many there are meanwhile.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_NEWEST = 0.2  # weight of the latest observation


@dataclass(frozen=True)
class Measured:
    """One finished run: the parameters it was called with, and the seconds of its stations."""

    arguments: dict[str, Any]
    timings: dict[str, float]
    together: float = 1.0  # requests that were drawn meanwhile, on average, itself included


class Company:
    """How many requests are drawn at once, over time. The worker's lock guards it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count, self._sum, self._changed = 0, 0.0, clock()

    def change(self, by: int) -> None:
        """So many more are drawn from now on."""
        self._add_up()
        self._count += by

    def begin(self) -> tuple[float, float]:
        """What `since` wants to know of the present."""
        self._add_up()
        return self._changed, self._sum

    def since(self, began: tuple[float, float]) -> float:
        """The mean number since then, at least 1."""
        self._add_up()
        seconds, added = self._changed - began[0], self._sum - began[1]
        return max(1.0, added / seconds) if seconds > 0 else 1.0

    def _add_up(self) -> None:
        now = self._clock()
        self._sum += self._count * (now - self._changed)
        self._changed = now


class Estimator:
    """Predicts seconds of work. Not for several threads at once: the worker's lock guards it."""

    def __init__(self, defaults: Mapping[str, Any], measured: Iterable[Measured] = ()) -> None:
        self._defaults = defaults
        self._step: float | None = None  # one picture, one pass through the UNet
        self._rest: float | None = None  # one picture, everything else
        self._together: float | None = None
        for run in measured:
            self.observe(run)

    def predict(self, arguments: Mapping[str, Any]) -> float:
        """Seconds from begin to end of one request, in the company of late.

        A guess of one second a picture before anything was drawn.
        """
        rows = self._rows(arguments)
        if self._step is None or self._rest is None:
            return float(rows)
        return rows * (self._rest + self._passes(arguments) * self._step)

    def share(self, arguments: Mapping[str, Any]) -> float:
        """Seconds of the device that are its own: so much sooner all would be done without it."""
        return self.predict(arguments) / (self._together or 1.0)

    def observe(self, run: Measured) -> None:
        """Learn from a finished run."""
        rows = self._rows(run.arguments)
        denoise = run.timings.get("denoise", 0.0)
        step = denoise / (rows * self._passes(run.arguments))
        rest = (sum(run.timings.values()) - denoise) / rows
        self._step = _moved(self._step, step)
        self._rest = _moved(self._rest, rest)
        self._together = _moved(self._together, run.together)

    def _passes(self, arguments: Mapping[str, Any]) -> int:
        wanted = {**self._defaults, **arguments}
        guided = wanted.get("guidance_scale", 1.0) != 1.0
        return int(wanted["num_inference_steps"]) * (2 if guided else 1)

    @staticmethod
    def _rows(arguments: Mapping[str, Any]) -> int:
        """Drawings: candidates are drawn too, though only the best is answered."""
        pictures = arguments.get("num_images_per_prompt", 1)
        return int(pictures * arguments.get("num_candidates", 1))


def _moved(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _NEWEST * (value - mean)
