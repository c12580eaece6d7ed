"""A pipeline in a process of its own: started, watched, and started again when it is lost."""

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal

from rapid_diffusion import GenerationResult
from rapid_diffusion.errors import CanceledError
from server.admission import Measured
from server.capabilities import Capabilities
from server.device import AfterStep, WorkerLostError, WorkRequest
from server.device_main import Loader, serve_device
from server.wire import unpack_error

_LOAD_SECONDS = 600.0
_LONGEST_PAUSE = 30.0
_QUIET_SECONDS = 1.5  # without a beat for so long, it is not called ready
Loss = Literal["died", "silent", "hang", "unloadable"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """When a process is given up: no beat (stopped), or beats without a step (a hang); seconds.

    `hang` must be longer than the longest step, and than decoding and enlarging a picture.
    """

    silence: float = 15.0
    hang: float = 120.0


@dataclass
class _Child:
    """One process and the ends of its two pipes; `seen` and `moved` are monotonic seconds."""

    process: BaseProcess
    orders: Connection
    beats: Connection
    capabilities: Capabilities
    measured: list[Measured]
    seen: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    beat: tuple[bool, int] = (False, -1)
    lost: bool = False

    def hear(self, beat: tuple[bool, int]) -> None:
        """Note a beat; work that gets on, or no work at all, is a move."""
        self.seen = time.monotonic()
        if beat != self.beat or not beat[0]:
            self.beat, self.moved = beat, self.seen

    def fault(self, patience: Patience) -> Loss | None:
        """Why it should be given up, now that there is no beat to be heard."""
        now = time.monotonic()
        if now - self.seen > patience.silence:
            return "silent"
        return "hang" if now - self.moved > patience.hang else None


def _end(process: BaseProcess, *connections: Connection) -> None:
    """Kill it and close everything."""
    process.kill()
    process.join()
    process.close()
    for connection in connections:
        connection.close()


class RemoteDevice:
    """As `server.device.Device`. `on_loss` is told why each process was lost."""

    def __init__(self, load: Loader, patience: Patience) -> None:
        self._load, self._patience = load, patience
        self.on_change: Callable[[], None] = lambda: None
        self.on_loss: Callable[[Loss], None] = lambda _: None
        self._child: _Child | None = None
        self._number = 0
        self._closing = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._context = multiprocessing.get_context("forkserver")
        # Imported once in a clean process that forks each worker: a restart costs a model load.
        self._context.set_forkserver_preload(["torch", "numpy"])

    def start(self) -> None:
        """Start the process and wait until its model is loaded; raises why it cannot be."""
        self._child = self._spawn()
        self.capabilities, self.measured = self._child.capabilities, self._child.measured
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether there is a process, loaded and beating."""
        child = self._child
        if child is None or child.lost:
            return False
        return time.monotonic() - child.seen < _QUIET_SECONDS

    @property
    def pid(self) -> int | None:
        """The process that draws now."""
        child = self._child
        return None if child is None else child.process.pid

    def draw(self, request: WorkRequest, after_step: AfterStep) -> GenerationResult:
        """As `Device` says; called by one thread."""
        child = self._child
        if child is None:
            raise WorkerLostError("there is no worker process")
        self._number += 1
        try:
            with self._sending:
                child.orders.send(("draw", self._number, request))
            return self._follow(child, after_step)
        except (EOFError, OSError) as error:
            child.lost = True  # before the supervisor knows: the next request must not go there
            raise WorkerLostError("the worker process was lost while it drew") from error

    def cancel(self) -> None:
        """As `Device` says."""
        child = self._child
        if child is not None:
            with self._sending, contextlib.suppress(OSError):
                child.orders.send(("cancel", self._number, None))

    def close(self) -> None:
        """End the process; it draws nothing any more by then."""
        self._closing.set()
        self._thread.join()
        if self._child is not None:
            _end(self._child.process, self._child.orders, self._child.beats)
            self._child = None

    def _follow(self, child: _Child, after_step: AfterStep) -> GenerationResult:
        """The process's messages on the request in hand, to the last one."""
        stopped: CanceledError | None = None
        while True:
            number, kind, content = child.orders.recv()
            assert number == self._number, "a process answers one order at a time"
            if kind == "failed":
                raise unpack_error(content)
            if kind == "done":
                result: GenerationResult = content
                return result
            if stopped is None:
                try:
                    after_step(*content)
                except CanceledError as error:
                    stopped = error
                    self.cancel()

    def _spawn(self) -> _Child:
        orders, their_orders = self._context.Pipe()
        beats, their_beats = self._context.Pipe()
        process = self._context.Process(
            target=serve_device, args=(their_orders, their_beats, self._load), daemon=True
        )
        process.start()
        their_orders.close()
        their_beats.close()
        try:
            return _Child(process, orders, beats, *self._loaded(orders))
        except BaseException:
            _end(process, orders, beats)
            raise

    def _loaded(self, orders: Connection) -> tuple[Capabilities, list[Measured]]:
        """Wait for the model; raises why it cannot be loaded."""
        due = time.monotonic() + _LOAD_SECONDS
        while not orders.poll(0.1):
            if time.monotonic() > due or self._closing.is_set():
                raise RuntimeError(f"the model was not loaded within {_LOAD_SECONDS:g} s")
        try:
            kind, content = orders.recv()
        except EOFError as error:
            raise RuntimeError("the worker process ended while it loaded the model") from error
        if kind == "failed":
            raise unpack_error(content)
        capabilities, measured = content
        return capabilities, measured

    def _supervise(self) -> None:
        """The thread: watch a process until it is lost, start the next, until closed."""
        pause = 0.0
        while not self._closing.is_set():
            child = self._child
            reason = self._restart() if child is None else self._watch(child)
            if reason is not None:
                logger.error("the worker process was lost: %s", reason)
                self.on_loss(reason)
            pause = min(_LONGEST_PAUSE, 2 * pause + 0.5) if reason == "unloadable" else 0.0
            self.on_change()
            self._closing.wait(pause)

    def _restart(self) -> Loss | None:
        try:
            self._child = self._spawn()
        except Exception as error:  # a worker's edge: the next attempt comes
            logger.error("the worker process did not start", exc_info=error)
            return "unloadable"
        return None

    def _watch(self, child: _Child) -> Loss | None:
        """Hear beats until there is a reason to give the process up; None when closing."""
        reason: Loss | None = None
        while reason is None and not self._closing.is_set():
            try:
                if child.beats.poll(0.1):
                    was_ready = self.is_ready
                    child.hear(child.beats.recv())
                    if not was_ready:
                        self.on_change()
                else:
                    reason = child.fault(self._patience)
            except (EOFError, OSError):
                reason = "died"
        if reason is not None:
            self._child = None
            # The pipes stay open until the thread that draws has seen their other end close.
            child.process.kill()
            child.process.join()
        return reason
