"""Looking at pictures while they are drawn, without changing them."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rapid_diffusion.denoising.rows import Watch

_PRESENT: ContextVar["Previews | None"] = ContextVar("previews", default=None)


@dataclass(frozen=True)
class Estimate:
    """What the model takes picture `place` (from 0) for after `step` steps: latents (C, h, w)."""

    place: int
    step: int
    latents: Tensor


class Previews:
    """The clean estimates of the pictures that a call draws, after the steps that are named.

    Write `with previews.watching(): pipe(...)` where the call is made, and `take()` what has come
    in its `callback_on_step_end`; `pipe.decode(estimate.latents[None])` makes a picture of one.
    Steps count from 1. A picture that is begun again in float32 shows its steps once more; of
    several candidates, all are shown under the place of the picture they are for.
    """

    def __init__(self, steps: Collection[int]) -> None:
        self._steps = frozenset(steps)
        self._come: list[Estimate] = []
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Calls that this thread makes inside the block are watched."""
        token = _PRESENT.set(self)
        try:
            yield
        finally:
            _PRESENT.reset(token)

    def take(self) -> list[Estimate]:
        """Those that have come since the last look."""
        with self._lock:
            come, self._come = self._come, []
        return come

    def watch(self, place: int) -> Watch:
        """What the engine tells of one picture; it does so in whichever thread steps it."""
        return Watch(self._steps, partial(self._note, place))

    def _note(self, place: int, step: int, latents: Tensor) -> None:
        with self._lock:
            self._come.append(Estimate(place, step, latents))


def watch_of(place: int) -> Watch | None:
    """For the picture at `place` of the present call, if somebody looks at it."""
    present = _PRESENT.get()
    return None if present is None else present.watch(place)
