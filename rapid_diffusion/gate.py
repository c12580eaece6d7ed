"""A gate for those who need one state of a thing that they share, as weights with an adapter."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rapid_diffusion.canceling import wait

Undo = Callable[[], None]


class Gate:
    """Lets those of one key in together; the others wait, first come first served.

    Nobody overtakes, not even with the key of those who are inside: so nobody waits for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._inside: list[int] = []  # threads, once for each time they entered
        self._key: object = None
        self._undo: Undo | None = None

    @contextmanager
    def entered(self, key: object, change: Callable[[], Undo]) -> Iterator[None]:
        """The first one in calls `change`, the last one out calls what it returned.

        Raises `RuntimeError` where the thread is inside already, with another key; and
        `CanceledError` where its call was canceled while it waited.
        """
        self._enter(key, change)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, key: object, change: Callable[[], Undo]) -> None:
        place = object()
        with self._changed:
            if threading.get_ident() in self._inside:  # it would wait for itself
                self._enter_again(key)
                return
            self._line.append(place)
            try:
                wait(self._changed, lambda: self._line[0] is place and self._fits(key))
                if not self._inside:
                    self._undo = change()
                self._key = key
                self._inside.append(threading.get_ident())
            finally:
                self._line.remove(place)
                self._changed.notify_all()

    def _fits(self, key: object) -> bool:
        return not self._inside or key == self._key

    def _enter_again(self, key: object) -> None:
        if key != self._key:
            raise RuntimeError("a call inside another one's callback needs the same adapter")
        self._inside.append(threading.get_ident())

    def _leave(self) -> None:
        with self._changed:
            self._inside.remove(threading.get_ident())
            if not self._inside and self._undo is not None:
                undo, self._undo = self._undo, None
                undo()
            self._changed.notify_all()
