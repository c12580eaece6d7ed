"""Calls that another thread may end, also while they wait for their turn."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rapid_diffusion.errors import CanceledError

_PRESENT: ContextVar["Cancellation | None"] = ContextVar("cancellation", default=None)


class Cancellation:
    """Ends a call of a pipeline from any thread: within a step, or while it waits for others.

    Write `with cancellation.watching(): pipe(...)` where the call is made; `cancel()` then ends it
    with `CanceledError`. Once denoising is over, the call runs to its end.
    """

    def __init__(self) -> None:
        self.canceled = False
        self._waits_at: list[threading.Condition] = []

    def cancel(self) -> None:
        """End the call, and every later one under the same watch."""
        self.canceled = True
        # Either the waiting thread sees `canceled`, or this one sees where it waits.
        for condition in list(self._waits_at):
            with condition:
                condition.notify_all()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Calls that this thread makes inside the block can be ended."""
        token = _PRESENT.set(self)
        try:
            yield
        finally:
            _PRESENT.reset(token)

    def wait(self, condition: threading.Condition, ready: Callable[[], bool]) -> None:
        """As the function `wait` says, for this one."""
        self._waits_at.append(condition)
        try:
            condition.wait_for(lambda: self.canceled or ready())
        finally:
            self._waits_at.remove(condition)
        if self.canceled:
            raise CanceledError("canceled by its caller")


def wait(condition: threading.Condition, ready: Callable[[], bool]) -> None:
    """`condition.wait_for(ready)`; `CanceledError` where the present call is canceled, even so."""
    present = _PRESENT.get()
    if present is None:
        condition.wait_for(ready)
    else:
        present.wait(condition, ready)
