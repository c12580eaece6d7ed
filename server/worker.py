"""The worker: one queue and the device that empties it; routes know `submit`, `cancel`, `events`.

A request whose device died under it is drawn again, from the same seed.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rapid_diffusion import GenerationResult
from rapid_diffusion.errors import CanceledError, InvalidRequestError
from server.admission import Estimator, Measured
from server.device import Device, WorkerLostError, WorkRequest
from server.errors import Problem
from server.metrics import Metrics

MOST_LOSSES = 3  # so often a request may lose its device before it is taken for the cause

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """The picture is being drawn; `queue_seconds` is how long it waited."""

    queue_seconds: float


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` is done (both count from 1)."""

    step: int
    steps: int


@dataclass(frozen=True)
class Succeeded:
    """Terminal: the result, its images one (N, H, W, 3) uint8 array."""

    result: GenerationResult
    queue_seconds: float


@dataclass(frozen=True)
class Failed:
    """Terminal: the error that ended it; `CanceledError` where the caller asked for the end."""

    error: BaseException


Event = Started | Progress | Succeeded | Failed


@dataclass(eq=False)
class Ticket:
    """One accepted request. Routes hand it back to the worker and look at nothing inside."""

    request: WorkRequest
    loop: asyncio.AbstractEventLoop
    submitted: float = field(default_factory=time.monotonic)
    outbox: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    canceled_at: float | None = None
    losses: int = 0

    def publish(self, event: Event) -> None:
        """Hand an event to the event loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self.outbox.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server is gone, and so is the listener
            logger.info("request %s: nobody is left to hear its end", self.request.request_id)


class Worker:
    """A bounded queue and the thread that empties it, one request at a time, first come first."""

    def __init__(
        self, device: Device, queue_size: int, metrics: Metrics, queue_seconds: float = 120.0
    ) -> None:
        self._device, self._queue_size, self._metrics = device, queue_size, metrics
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._changed = threading.Condition()
        self._alive = False
        self._draining = False
        self._queue_seconds = queue_seconds
        self._estimator = Estimator(device.capabilities.defaults, device.measured)
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._alive = True
        self._device.on_change = self._look
        self._thread.start()

    @property
    def obstacle(self) -> Problem | None:
        """Why a request would be refused at once, whatever it asks; None when ready."""
        if self._draining:
            return Problem("draining", retry_after=5.0)
        if not self._alive or not self._device.is_ready:
            return Problem("not_ready", retry_after=10.0)
        return None

    @property
    def is_draining(self) -> bool:
        """Whether the end has been announced."""
        return self._draining

    def predict(self, arguments: Mapping[str, Any]) -> float:
        """Seconds that a request with these arguments would take."""
        with self._changed:
            return self._estimator.predict(arguments)

    @property
    def work_seconds(self) -> float:
        """Predicted seconds of all that was taken and is not over."""
        with self._changed:
            return self._work_seconds()

    def submit(self, request: WorkRequest, *, accepted: bool = False) -> Ticket:
        """Take a request into the queue. Call it on the event loop that will read its events.

        A request that was `accepted` before, as jobs are, is not counted against the queue's size.
        Raises `Problem`: overloaded, draining or not_ready, each with the seconds to wait.
        """
        ticket = Ticket(request, asyncio.get_running_loop())
        with self._changed:
            obstacle = self.obstacle
            if obstacle is None and not accepted:
                obstacle = self._overload(request)
            if obstacle is not None:
                if not accepted:
                    self._metrics.admission_rejected.labels(reason=obstacle.code).inc()
                raise obstacle
            self._waiting.append(ticket)
            self._count()
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: at once where it waits, within one step where it runs.

        A request that is over stays as it is.
        """
        with self._changed:
            ticket.canceled_at = ticket.canceled_at or time.monotonic()
            if ticket is self._running:
                self._device.cancel()  # under the lock: the next one cannot begin meanwhile
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
            self._count()
            self._changed.notify_all()
        self._fail(ticket, CanceledError("canceled while it waited"))

    async def events(self, ticket: Ticket) -> AsyncIterator[Event]:
        """The events of a request, ending with exactly one `Succeeded` or `Failed`."""
        while True:
            event = await ticket.outbox.get()
            yield event
            if isinstance(event, Succeeded | Failed):
                return

    def drain(self) -> None:
        """Take nothing new from now on; what was accepted is finished."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Take nothing new, finish what was accepted, give up what is left after `seconds`."""
        self.drain()
        with self._changed:
            idle = self._changed.wait_for(
                lambda: not self._waiting and self._running is None, timeout=seconds
            )
            left = [] if idle else [*self._waiting, *filter(None, [self._running])]
        for ticket in left:
            self.cancel(ticket)
        self._thread.join(timeout=10.0)
        self._device.close()  # takes what hangs with it

    def _main(self) -> None:
        """The thread: until drained. If it ends any other way, every request hears of it."""
        try:
            while (ticket := self._take()) is not None:
                self._run(ticket)
                self._finish()
        finally:
            with self._changed:
                self._alive = False
                orphans = [*filter(None, [self._running]), *self._waiting]
                self._running = None
                self._waiting.clear()
                self._count()
                self._changed.notify_all()
            for ticket in orphans:
                self._fail(ticket, WorkerLostError("the worker has died"))

    def _take(self) -> Ticket | None:
        with self._changed:
            self._changed.wait_for(self._has_work_or_is_done)
            self._running = self._waiting.popleft() if self._waiting else None
            self._count()
            return self._running

    def _has_work_or_is_done(self) -> bool:
        return self._device.is_ready if self._waiting else self._draining

    def _finish(self) -> None:
        with self._changed:
            self._running = None
            self._count()
            self._changed.notify_all()

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self, ticket: Ticket) -> None:
        """The worker's edge: whatever a run raises becomes a failed ticket and a traceback."""
        began = time.monotonic()
        ticket.publish(Started(began - ticket.submitted))
        try:
            result = self._draw(ticket)
        except (CanceledError, InvalidRequestError) as error:
            self._fail(ticket, error)
        except WorkerLostError as error:
            self._draw_again(ticket, error)
        except Exception as error:
            logger.error("request %s failed", ticket.request.request_id, exc_info=error)
            self._fail(ticket, error)
        else:
            with self._changed:
                self._estimator.observe(Measured(ticket.request.arguments, result.timings))
            self._metrics.observe_result(result, began - ticket.submitted)
            ticket.publish(Succeeded(result, began - ticket.submitted))

    def _draw(self, ticket: Ticket) -> GenerationResult:
        def after_step(step: int, steps: int) -> None:
            if ticket.canceled_at is not None:
                raise CanceledError(f"canceled after step {step} of {steps}")
            ticket.publish(Progress(step, steps))

        if ticket.canceled_at is not None:
            raise CanceledError("canceled before its first step")
        return self._device.draw(ticket.request, after_step)

    def _draw_again(self, ticket: Ticket, error: WorkerLostError) -> None:
        """Back to the head of the queue, unless it has cost too many devices or is unwanted."""
        ticket.losses += 1
        logger.error("request %s: %s (%d)", ticket.request.request_id, error, ticket.losses)
        with self._changed:
            if ticket.canceled_at is None and ticket.losses < MOST_LOSSES:
                self._running = None
                self._waiting.appendleft(ticket)
                return
        wanted = Problem("worker_lost", values={"received": ticket.losses}, retry_after=10.0)
        unwanted = CanceledError("canceled when its worker was lost")
        self._fail(ticket, wanted if ticket.canceled_at is None else unwanted)

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        if ticket.canceled_at is not None:
            self._metrics.cancel_latency.observe(time.monotonic() - ticket.canceled_at)
        ticket.publish(Failed(error))

    def _overload(self, request: WorkRequest) -> Problem | None:
        """Why there is no place for it: too many, too much work, or more than its deadline."""
        ahead, waiting = self._work_seconds(), len(self._waiting)
        own = self._estimator.predict(request.arguments)
        late = 0.0
        if request.deadline_seconds is not None and ahead:
            late = ahead + own - request.deadline_seconds
        if waiting:  # the first in line always has a place
            late = max(late, ahead + own - self._queue_seconds)
        if late <= 0 and waiting < self._queue_size:
            return None
        values = {"received": waiting, "seconds": math.ceil(ahead)}
        return Problem("overloaded", values=values, retry_after=max(1.0, late or ahead))

    def _work_seconds(self) -> float:
        taken = [*self._waiting, *filter(None, [self._running])]
        return sum(self._estimator.predict(ticket.request.arguments) for ticket in taken)

    def _count(self) -> None:
        self._metrics.running.set(self._running is not None)
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.work_seconds.set(self._work_seconds())
