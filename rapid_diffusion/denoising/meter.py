"""What an engine does, for statistics: its calls of the denoiser, and second chances."""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_MOST_CALLS = 4096  # kept where nobody looks


@dataclass(frozen=True)
class EngineCall:
    """One call of the denoiser: `rows` of which `taken` were somebody's.

    `height` and `width` are those of the latents. `seconds` are of the calling thread: on a CUDA
    device, of handing the work over.
    """

    height: int
    width: int
    rows: int
    taken: int
    seconds: float


@dataclass(frozen=True)
class EngineWork:
    """What was done since the last look."""

    calls: list[EngineCall]
    retries: int = 0  # pictures that were begun again in float32
    compilations: int = 0  # graphs that TorchDynamo compiled, in this process


class Meter:
    """Notes of one engine. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[EngineCall] = deque(maxlen=_MOST_CALLS)
        self._retries = 0
        self._compiled = 0

    @contextmanager
    def timing(self, size: tuple[int, int], rows: int, taken: int) -> Iterator[None]:
        """Note the call that is made inside the block; one that raises is no call."""
        began = time.perf_counter()
        yield
        call = EngineCall(*size, rows, taken, time.perf_counter() - began)
        with self._lock:
            self._calls.append(call)

    def retry(self) -> None:
        """A picture begins again in float32."""
        with self._lock:
            self._retries += 1

    def take(self) -> EngineWork:
        """What was done since the last look."""
        with self._lock:
            compiled = _compiled()
            work = EngineWork(list(self._calls), self._retries, compiled - self._compiled)
            self._calls.clear()
            self._retries, self._compiled = 0, compiled
        return work


def _compiled() -> int:
    """How many graphs TorchDynamo has compiled; 0 where it was never imported."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
