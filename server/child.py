"""One worker process as the server sees it: what it draws, how it lives, and when to give it up."""

import contextlib
import itertools
import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from server.admission import Measured
from server.capabilities import Capabilities
from server.device import WorkerLostError, WorkRequest
from server.device_main import Beat
from server.wire import unpack_error

Loss = Literal["died", "silent", "hang", "unloadable"]
_OWN_PAUSE = 1.0  # seconds; who watches looks ten times a second

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """When a process is given up: no beat (stopped), or beats without a step (a hang); seconds.

    `hang` must be longer than the longest step, and than decoding and enlarging a picture.
    """

    silence: float = 15.0
    hang: float = 120.0


@dataclass
class Pulse:
    """What the beats of one process tell; `seen` and `moved` are monotonic seconds."""

    seen: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    beat: Beat = field(default_factory=dict)
    at_end: dict[tuple[int, int], float] = field(default_factory=dict)  # since when, by order
    looked: float = field(default_factory=time.monotonic)  # when this was last asked or told

    def hear(self, beat: Beat) -> None:
        """Note a beat; anything that gets on, or no work at all, is a move."""
        self.seen = self.looked = time.monotonic()
        if beat != self.beat or not beat:
            self.beat, self.moved = beat, self.seen
        ending = [(number, moves) for number, (moves, at_end) in beat.items() if at_end]
        self.at_end = {order: self.at_end.get(order, self.seen) for order in ending}

    def fault(self, patience: Patience) -> Loss | None:
        """Why it should be given up, now that there is no beat to be heard.

        A request may wait long for others' rows, but not once its own steps are done.
        """
        now = time.monotonic()
        self._forgive(now)
        if now - self.seen > patience.silence:
            return "silent"
        oldest = min([self.moved, *self.at_end.values()])
        return "hang" if now - oldest > patience.hang else None

    def _forgive(self, now: float) -> None:
        """Time in which nobody looked is nobody's fault: the whole machine may have stood still."""
        away, self.looked = now - self.looked, now
        if away > _OWN_PAUSE:
            self.seen, self.moved = self.seen + away, self.moved + away
            self.at_end = {order: since + away for order, since in self.at_end.items()}


@dataclass(eq=False)
class Order:
    """One thing that is being done; messages on it come into `inbox`: (kind, content).

    `content` is the request that is drawn, or what else is asked: see `server.device_main`.
    """

    number: int
    content: Any
    inbox: "queue.SimpleQueue[tuple[str, Any]]" = field(default_factory=queue.SimpleQueue)


@dataclass(eq=False)
class Child:
    """One process and the ends of its two pipes.

    A thread of its own hands what comes through `pipe` to the orders.
    """

    process: BaseProcess
    pipe: Connection
    beats: Connection
    capabilities: Capabilities
    measured: list[Measured]
    graph: str | None  # the folder of the version that it linked to when it was ready
    pulse: Pulse = field(default_factory=Pulse)
    lost: bool = False

    def __post_init__(self) -> None:
        self._orders: dict[int, Order] = {}
        self._numbers = itertools.count()
        self.pid = self.process.pid
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="worker-pipe", daemon=True)
        self._reader.start()

    def send(self, request: WorkRequest) -> Order:
        """Have a request drawn. Raises `WorkerLostError`."""
        return self._send("draw", request)

    def ask(self, kind: Literal["reload", "look_up"], content: Any) -> Any:
        """Have something else done; blocks. Raises `WorkerLostError`, or why it was refused."""
        told, answer = self._send(kind, content).inbox.get()
        if told == "lost":
            raise WorkerLostError("the worker process was lost while it was asked")
        if told == "failed":
            raise unpack_error(answer)
        return answer

    def _send(self, kind: str, content: Any) -> Order:
        with self._sending:  # so that a cancel comes after its order
            order = Order(next(self._numbers), content)
            self._orders[order.number] = order
            try:
                if self.lost:
                    raise OSError("lost before")
                self.pipe.send((kind, order.number, content))
            except OSError as error:
                self.lost = True
                del self._orders[order.number]
                raise WorkerLostError("the worker process was lost before it drew") from error
        return order

    def cancel(self, request: WorkRequest) -> None:
        """Stop drawing this very request; harmless where it is not drawn."""
        with self._sending, contextlib.suppress(OSError):
            for order in list(self._orders.values()):
                if order.content is request:
                    self.pipe.send(("cancel", order.number, None))

    def end(self) -> None:
        """Kill it; every order hears that it is lost."""
        self.process.kill()
        self.process.join()
        self._reader.join(timeout=5.0)  # it reads until nobody has the other end any more
        self._lose_orders()
        end_process(self.process, self.beats)
        if not self._reader.is_alive():
            self.pipe.close()

    def _read(self) -> None:
        """The thread: until the process has ended."""
        try:
            while True:
                number, kind, content = self.pipe.recv()
                order = self._orders[number]
                if kind in ("done", "failed"):
                    del self._orders[number]
                order.inbox.put((kind, content))
        except (EOFError, OSError):
            pass
        except Exception as error:  # a worker's edge: nobody would hear of anything any more
            logger.error("the worker process sent what cannot be read", exc_info=error)
            self.process.kill()
        self._lose_orders()

    def _lose_orders(self) -> None:
        with self._sending:
            self.lost = True  # before the supervisor knows: the next one must not come here
            for order in self._orders.values():
                order.inbox.put(("lost", None))
            self._orders.clear()


def end_process(process: BaseProcess, *connections: Connection) -> None:
    """Kill it and close everything."""
    process.kill()
    process.join()
    process.close()
    for connection in connections:
        connection.close()
