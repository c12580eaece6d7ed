"""A pipeline in a process of its own: started, watched, and started again when it is lost."""

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rapid_diffusion import EngineWork, GenerationResult
from rapid_diffusion.errors import CanceledError
from server.admission import Measured
from server.capabilities import Capabilities
from server.child import Child, Loss, Patience, end_process
from server.device import AfterStep, GraphInUse, WorkerLostError, WorkRequest
from server.device_main import Loader, serve_device
from server.picture_check import PictureRefusedError
from server.wire import unpack_error

_LOAD_SECONDS = 600.0
_LONGEST_PAUSE = 30.0
_QUIET_SECONDS = 1.5  # without a beat for so long, it is not called ready

__all__ = ["Patience", "RemoteDevice"]

logger = logging.getLogger(__name__)


class RemoteDevice:
    """As `server.device.Device`. `on_loss` is told why each process was lost."""

    def __init__(
        self, load: Loader, patience: Patience, picture_threshold: float | None = None
    ) -> None:
        self._load, self._patience = load, patience
        self._threshold = picture_threshold  # None: pictures are not checked
        self.on_change: Callable[[], None] = lambda: None
        self.on_refused: Callable[[], object] = lambda: None
        self.on_loss: Callable[[Loss], None] = lambda _: None
        self.on_work: Callable[[EngineWork], None] = lambda _: None
        self._child: Child | None = None
        self._graph: str | None = None  # the version in use; a process that is started again has it
        self._changing = threading.Lock()  # a process starts, or the graph changes
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._context = multiprocessing.get_context("forkserver")
        # Imported once in a clean process that forks each worker: a restart costs a model load.
        self._context.set_forkserver_preload(["torch", "numpy"])

    def start(self) -> None:
        """Start the process and wait until its model is loaded; raises why it cannot be."""
        self._child = self._spawn()
        self.capabilities, self.measured = self._child.capabilities, self._child.measured
        self._graph = self._child.graph
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether there is a process, loaded and beating."""
        child = self._child
        if child is None or child.lost:
            return False
        return time.monotonic() - child.pulse.seen < _QUIET_SECONDS

    @property
    def pid(self) -> int | None:
        """The process that draws now."""
        child = self._child
        return None if child is None else child.pid

    def draw(self, request: WorkRequest, after_step: AfterStep) -> GenerationResult:
        """As `Device` says."""
        child = self._child
        if child is None:
            raise WorkerLostError("there is no worker process")
        order = child.send(request)
        order.inbox.put(("step", (0, 0)))
        stopped = False
        while True:
            kind, content = order.inbox.get()
            if kind == "lost":
                raise WorkerLostError("the worker process was lost while it drew")
            if kind == "failed":
                raise self._told(unpack_error(content))
            if kind == "done":
                result: GenerationResult = content
                return result
            try:
                if not stopped:
                    after_step(*content)
            except CanceledError:  # its own word comes back as the failure
                stopped = True
                child.cancel(request)

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, PictureRefusedError):
            self.on_refused()
        return error

    def cancel(self, request: WorkRequest) -> None:
        """As `Device` says."""
        child = self._child
        if child is not None:
            child.cancel(request)

    def look_up(self, text: str, neighbours: int) -> dict[str, Any]:
        """As `Device` says."""
        child = self._child
        if child is None:
            raise WorkerLostError("there is no worker process")
        found: dict[str, Any] = child.ask("look_up", (text, neighbours))
        return found

    def reload(self, path: str | None) -> GraphInUse:
        """As `Device` says. Raises `WorkerLostError` where there is no process to do it."""
        if self._child is None:  # at once: the lock is held while the next one is started
            raise WorkerLostError("there is no worker process")
        with self._changing:
            child = self._child
            if child is None:
                raise WorkerLostError("the worker process was lost")
            graph: GraphInUse = child.ask("reload", path)
            self._graph = graph.path
            self.capabilities = self.capabilities.with_knowledge(graph.version)
        return graph

    def close(self) -> None:
        """End the process; it draws nothing any more by then."""
        self._closing.set()
        self._thread.join()
        if self._child is not None:
            self._child.end()
            self._child = None

    def _spawn(self) -> Child:
        orders, their_orders = self._context.Pipe()
        beats, their_beats = self._context.Pipe()
        process = self._context.Process(
            target=serve_device,
            args=(their_orders, their_beats, self._load, self._graph, self._threshold),
            daemon=True,
        )
        process.start()
        their_orders.close()
        their_beats.close()
        try:
            return Child(process, orders, beats, *self._loaded(orders))
        except BaseException:
            end_process(process, orders, beats)
            raise

    def _loaded(self, orders: Connection) -> tuple[Capabilities, list[Measured], str | None]:
        """Wait for the model; raises why it cannot be loaded."""
        due = time.monotonic() + _LOAD_SECONDS
        while not orders.poll(0.1):
            if self._closing.is_set():
                raise RuntimeError("the server is ending")
            if time.monotonic() > due:
                raise RuntimeError(f"the model was not loaded within {_LOAD_SECONDS:g} s")
        try:
            _, kind, content = orders.recv()
        except EOFError as error:
            raise RuntimeError("the worker process ended while it loaded the model") from error
        if kind == "failed":
            raise unpack_error(content)
        capabilities, measured, graph = content
        return capabilities, measured, graph

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
            with self._changing:
                self._child = self._spawn()
        except Exception as error:  # a worker's edge: the next attempt comes
            if self._closing.is_set():
                return None
            logger.error("the worker process did not start", exc_info=error)
            return "unloadable"
        return None

    def _watch(self, child: Child) -> Loss | None:
        """Hear beats until there is a reason to give the process up; None when closing."""
        reason: Loss | None = None
        while reason is None and not self._closing.is_set():
            try:
                if child.beats.poll(0.1):
                    was_ready = self.is_ready
                    beat, work = child.beats.recv()
                    child.pulse.hear(beat)
                    self.on_work(work)
                    if not was_ready:
                        self.on_change()
                else:
                    reason = child.pulse.fault(self._patience)
            except (EOFError, OSError):
                reason = "died"
        if reason is not None:
            self._child = None
            child.end()
        return reason
