"""The worker's own process: loads the pipeline, draws what it is told, and shows that it lives.

Its threads: some draw, whose requests share each step; one reads orders; one beats four times a
second; two look things up and exchange the graph. A process that is stopped does not beat; one that
hangs beats without getting on.
"""

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

from rapid_diffusion import Cancellation, RapidDiffusionPipeline
from rapid_diffusion.errors import CanceledError
from server.admission import Measured
from server.capabilities import read_capabilities
from server.device import GraphInUse, Preview, WorkRequest, draw, exchange_graph, work_of
from server.lookup import look_up
from server.memory import keep_what_is_there, use_one_arena
from server.picture_check import PictureCheck, PictureRefusedError
from server.wire import pack_error

BEAT_SECONDS = 0.25
_SENTENCE = "一个苹果"
#: The orders in hand: for each how often it has got on, and whether all its steps are done.
Beat = dict[int, tuple[int, bool]]

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """Opens a pipeline; `graph` is given where one took the place of the first one since."""

    def __call__(self, *, graph: str | None = None) -> RapidDiffusionPipeline:
        """Raises `CheckpointError` where something cannot be loaded."""


@dataclass(frozen=True)
class LoadPipeline:
    """Opens a model in the process that is to own it."""

    model: str
    device: str | None
    threads: int | None
    adapters: tuple[tuple[str, str], ...] = ()  # name, folder
    rows: int | Literal["fit"] | None = None  # as `share_engine` takes them
    artifacts: str | None = None  # as `from_pretrained` takes them
    graph: str | None = None  # None: the model's own

    def __call__(self, *, graph: str | None = None) -> RapidDiffusionPipeline:
        """Raises `CheckpointError` where the model, its graph or an adapter cannot be loaded."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        pipeline = RapidDiffusionPipeline.from_pretrained(
            self.model,
            device=self.device,
            knowledge=self.graph if graph is None else graph,
            artifacts=self.artifacts,
        )
        for name, path in self.adapters:
            pipeline.load_adapter(path, name)
        return pipeline.share_engine(self.rows)


@dataclass
class _Order:
    """One request in hand, and how far it came."""

    number: int
    request: WorkRequest
    cancellation: Cancellation = field(default_factory=Cancellation)
    moves: int = 0
    at_end: bool = False  # of its steps; decoding and enlarging are left


class _Hands:
    """What the threads share: the pipeline, the pipe, and the orders that wait or are in hand."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.pipeline: RapidDiffusionPipeline  # once it is loaded
        self.check: PictureCheck | None = None
        self._reloading = threading.Lock()
        self._desk = ThreadPoolExecutor(2, "desk")
        self.waiting: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self.in_hand: dict[int, _Order] = {}
        self._sending = threading.Lock()

    def send(self, number: int, kind: str, content: Any) -> None:
        """One message to the server; from any thread."""
        with self._sending:
            self.pipe.send((number, kind, content))

    def take(self, order: _Order) -> None:
        """A new order."""
        self.in_hand[order.number] = order
        self.waiting.put(order)

    def cancel(self, number: int) -> None:
        """Give an order up, wherever it is; one that is over stays so."""
        if (order := self.in_hand.get(number)) is not None:
            order.cancellation.cancel()

    def ask(self, number: int, kind: str, content: Any) -> None:
        """Something else than a picture; reading orders and drawing go on meanwhile."""
        answers: dict[str, Callable[[Any], Any]] = {"reload": self._reload, "look_up": self._look}
        self._desk.submit(self._answer, number, answers[kind], content)

    def _answer(self, number: int, answer: Callable[[Any], Any], content: Any) -> None:
        try:
            found = answer(content)
        except Exception as error:  # noqa: BLE001  a worker's edge: the server tells it
            self.send(number, "failed", pack_error(error))
        else:
            self.send(number, "done", found)

    def _reload(self, path: str | None) -> GraphInUse:
        """Exchange the graph; what is being drawn keeps the pipeline that it began with."""
        with self._reloading:
            self.pipeline, graph = exchange_graph(self.pipeline, path)
        return graph

    def _look(self, asked: tuple[str, int]) -> dict[str, Any]:
        return look_up(self.pipeline.graph, *asked)

    def beat(self) -> Beat:
        """How everything in hand gets on."""
        return {order.number: (order.moves, order.at_end) for order in list(self.in_hand.values())}


def serve_device(
    orders: Connection,
    beats: Connection,
    load: Loader,
    graph: str | None = None,
    threshold: float | None = None,
) -> None:
    """The process: until it is killed or the other end is gone.

    `graph` is given where one took the place of the first one, `threshold` where pictures are
    checked.
    """
    use_one_arena()
    # They go to the whole group or tree; the server drains and then kills this process.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    hands = _Hands(orders)
    # From the first moment, so that a process whose server was killed does not stay behind.
    threading.Thread(target=_read, args=(orders, hands), daemon=True).start()
    try:
        hands.check = None if threshold is None else PictureCheck.open(threshold)
        hands.pipeline = pipeline = load() if graph is None else load(graph=graph)
        able = read_capabilities(pipeline)
        hands.send(0, "ready", (able, _measure(pipeline), _path_of_graph(pipeline)))
    except Exception as error:
        logger.error("the model could not be loaded", exc_info=error)
        hands.send(0, "failed", pack_error(error))
        return
    keep_what_is_there()
    threading.Thread(target=_beat, args=(beats, hands), daemon=True).start()
    # Threads that stay: each keeps its own pool of OpenMP threads.
    for _ in range(able.concurrency - 1):
        threading.Thread(target=_draw, args=(hands,), daemon=True).start()
    _draw(hands)


def _path_of_graph(pipeline: RapidDiffusionPipeline) -> str | None:
    return None if pipeline.graph is None else str(pipeline.graph.path)


def _measure(pipeline: RapidDiffusionPipeline) -> list[Measured]:
    """Draw twice: once to warm everything up, once against the clock."""
    arguments = {"num_inference_steps": 2, "seed": 0}
    for _ in range(2):
        drawn = pipeline(_SENTENCE, num_inference_steps=2, seed=0, output_type="numpy")
    work_of(pipeline)  # what is counted begins when the process is ready
    return [Measured(arguments, drawn.timings)]


def _draw(hands: _Hands) -> None:
    """A thread that draws one order after the other."""
    try:
        while True:
            order = hands.waiting.get()
            hands.send(order.number, *_answer(order, hands))
            del hands.in_hand[order.number]
    except BaseException as error:  # the order would be in hand for ever
        logger.critical("a thread of the worker has died", exc_info=error)
        os._exit(1)


def _answer(order: _Order, hands: _Hands) -> tuple[Literal["done", "failed"], Any]:
    """The worker's edge: a result, or whatever the run raised, with its traceback in the log."""

    def after_step(step: int, steps: int, previews: Sequence[Preview] = ()) -> None:
        order.moves, order.at_end = order.moves + 1, step == steps
        if order.request.hears_steps:
            hands.send(order.number, "step", (step, steps, previews))

    try:
        if order.cancellation.canceled:
            raise CanceledError("canceled before its first step")
        with order.cancellation.watching():
            return "done", draw(hands.pipeline, order.request, after_step, hands.check)
    except Exception as error:
        if not isinstance(error, CanceledError | PictureRefusedError):
            logger.error("request %s failed", order.request.request_id, exc_info=error)
        return "failed", pack_error(error)


def _beat(beats: Connection, hands: _Hands) -> None:
    pause = threading.Event()
    while True:
        try:
            beats.send((hands.beat(), work_of(hands.pipeline)))
        except OSError:  # the server is gone
            os._exit(1)
        pause.wait(BEAT_SECONDS)


def _read(orders: Connection, hands: _Hands) -> None:
    while True:
        try:
            kind, number, content = orders.recv()
        except (EOFError, OSError):  # the server is gone: nobody waits for what is being drawn
            os._exit(1)
        if kind == "cancel":
            hands.cancel(number)
        elif kind == "draw":
            hands.take(_Order(number, content))
        else:
            hands.ask(number, kind, content)
