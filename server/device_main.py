"""The worker's own process: loads the pipeline, draws what it is told, and shows that it lives.

Three threads: the main one draws; one reads orders; one beats four times a second. A process that
is stopped does not beat; one that hangs beats without getting on.
"""

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import CanceledError
from server.admission import Measured
from server.capabilities import read_capabilities
from server.device import WorkRequest, draw
from server.wire import pack_error

BEAT_SECONDS = 0.25
_SENTENCE = "一个苹果"
Loader = Callable[[], RapidDiffusionPipeline]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadPipeline:
    """Opens a model in the process that is to own it."""

    model: str
    device: str | None
    threads: int | None
    adapters: tuple[tuple[str, str], ...] = ()  # name, folder

    def __call__(self) -> RapidDiffusionPipeline:
        """Raises `CheckpointError` where the model or an adapter cannot be loaded."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        pipeline = RapidDiffusionPipeline.from_pretrained(self.model, device=self.device)
        for name, path in self.adapters:
            pipeline.load_adapter(path, name)
        return pipeline


class _Hands:
    """What the threads share: orders, what was canceled, and how far the drawing came."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[tuple[int, WorkRequest] | None] = queue.SimpleQueue()
        self.canceled = -1  # orders up to this number
        self.progress = 0
        self.busy = False


def serve_device(orders: Connection, beats: Connection, load: Loader) -> None:
    """The process: until `end` is ordered or the other end is gone."""
    # Both go to the whole group or tree; the server drains and then ends this process.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    hands = _Hands()
    # From the first moment, so that a process whose server was killed does not stay behind.
    threading.Thread(target=_read, args=(orders, hands), daemon=True).start()
    try:
        pipeline = load()
        orders.send(("ready", (read_capabilities(pipeline), _measure(pipeline))))
    except Exception as error:
        logger.error("the model could not be loaded", exc_info=error)
        orders.send(("failed", pack_error(error)))
        return
    threading.Thread(target=_beat, args=(beats, hands), daemon=True).start()
    while (order := hands.orders.get()) is not None:
        number, request = order
        hands.busy = True
        orders.send((number, *_answer(pipeline, number, request, orders, hands)))
        hands.busy = False
        hands.progress += 1


def _measure(pipeline: RapidDiffusionPipeline) -> list[Measured]:
    """Draw twice: once to warm everything up, once against the clock."""
    arguments = {"num_inference_steps": 2, "seed": 0}
    for _ in range(2):
        drawn = pipeline(_SENTENCE, num_inference_steps=2, seed=0, output_type="numpy")
    return [Measured(arguments, drawn.timings)]


def _answer(
    pipeline: RapidDiffusionPipeline,
    number: int,
    request: WorkRequest,
    orders: Connection,
    hands: _Hands,
) -> tuple[str, Any]:
    """The worker's edge: a result, or whatever the run raised, with its traceback in the log."""

    def after_step(step: int, steps: int) -> None:
        hands.progress += 1
        if number <= hands.canceled:
            raise CanceledError(f"canceled after step {step} of {steps}")
        orders.send((number, "step", (step, steps)))

    try:
        if number <= hands.canceled:
            raise CanceledError("canceled before its first step")
        return "done", draw(pipeline, request, after_step)
    except Exception as error:
        if not isinstance(error, CanceledError):
            logger.error("request %s failed", request.request_id, exc_info=error)
        return "failed", pack_error(error)


def _beat(beats: Connection, hands: _Hands) -> None:
    pause = threading.Event()
    while True:
        try:
            beats.send((hands.busy, hands.progress))
        except OSError:  # the server is gone
            os._exit(1)
        pause.wait(BEAT_SECONDS)


def _read(orders: Connection, hands: _Hands) -> None:
    while True:
        try:
            kind, number, request = orders.recv()
        except (EOFError, OSError):  # the server is gone: nobody waits for what is being drawn
            os._exit(1)
        if kind == "cancel":
            hands.canceled = max(hands.canceled, number)
        else:
            hands.orders.put((number, request) if kind == "draw" else None)
