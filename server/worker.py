"""The worker: one line and the threads that empty it; routes know `submit`, `cancel`, `events`.

A request whose device died under it is drawn again, from the same seed; the last time alone, so
that nobody pays for what another one's request does to the device.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rapid_diffusion import GenerationResult
from rapid_diffusion.errors import CanceledError, InvalidRequestError
from server.admission import Estimator
from server.device import Device, Preview, WorkerLostError, WorkRequest
from server.errors import Problem
from server.line import MOST_LOSSES, Line
from server.metrics import Metrics
from server.shares import Shares
from server.tickets import Event, Failed, Progress, Started, Succeeded, Ticket

__all__ = ["Event", "Failed", "Preview", "Progress", "Started", "Succeeded", "Ticket", "Worker"]

logger = logging.getLogger(__name__)


class Worker:
    """A bounded line, and the threads that empty it; each draws one request."""

    def __init__(
        self,
        device: Device,
        queue_size: int,
        metrics: Metrics,
        queue_seconds: float = 120.0,
        shares: Shares | None = None,
    ) -> None:
        self._device, self._metrics = device, metrics
        estimator = Estimator(device.capabilities.defaults, device.measured)
        self._line = Line(queue_size, queue_seconds, estimator, shares or Shares(), metrics)
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # something may begin, or nothing ever will
        self._quiet = threading.Condition(self._lock)  # nothing may be left to do
        self._alive = False
        self._draining = False
        self._threads = [
            threading.Thread(target=self._main, name=f"worker-{number}", daemon=True)
            for number in range(device.capabilities.concurrency)
        ]

    def start(self) -> None:
        """Start the threads; once."""
        self._alive = True
        self._device.on_change = self._look
        for thread in self._threads:
            thread.start()

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
        """Seconds of the device that a request with these arguments would take."""
        with self._lock:
            return self._line.estimator.share(arguments)

    @property
    def work_seconds(self) -> float:
        """Predicted seconds of all that was taken and is not over."""
        with self._lock:
            return self._line.work_seconds

    def submit(self, request: WorkRequest, *, accepted: bool = False) -> Ticket:
        """Take a request into the queue. Call it on the event loop that will read its events.

        A request that was `accepted` before, as jobs are, is not counted against the queue's size.
        Raises `Problem`: overloaded, draining or not_ready, each with the seconds to wait.
        """
        ticket = Ticket(request, asyncio.get_running_loop())
        with self._lock:
            obstacle = self.obstacle
            if obstacle is None and not accepted:
                obstacle = self._line.overload(ticket)
            if obstacle is not None:
                if not accepted:
                    self._metrics.admission_rejected.labels(reason=obstacle.code).inc()
                raise obstacle
            self._line.join(ticket)
            self._work.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: at once where it waits, within one step where it runs.

        A request that is over stays as it is.
        """
        with self._lock:
            ticket.canceled_at = ticket.canceled_at or time.monotonic()
            if ticket in self._line.in_hand:
                self._device.cancel(ticket.request)
            if not self._line.leave(ticket):
                return
            self._tell()
        self._fail(ticket, CanceledError("canceled while it waited"))

    def look_up(self, text: str, neighbours: int) -> dict[str, Any]:
        """What the graph finds in a text, as prompts are linked; blocks: call it in a thread.

        Raises `Problem` not_ready where there is no worker, and what reading the graph raises.
        """
        lost = Problem("not_ready", retry_after=10.0)
        if not self._alive or not self._device.is_ready:
            raise lost
        try:
            return self._device.look_up(text, neighbours)
        except WorkerLostError as error:
            raise lost from error

    async def events(self, ticket: Ticket) -> AsyncIterator[Event]:
        """The events of a request, ending with exactly one `Succeeded` or `Failed`."""
        while True:
            event = await ticket.outbox.get()
            yield event
            if isinstance(event, Succeeded | Failed):
                return

    def drain(self) -> None:
        """Take nothing new from now on; what was accepted is finished."""
        with self._lock:
            self._draining = True
            self._tell()

    def close(self, seconds: float) -> None:
        """Take nothing new, finish what was accepted, give up what is left after `seconds`."""
        self.drain()
        with self._lock:
            idle = self._quiet.wait_for(lambda: self._line.is_idle, timeout=seconds)
            left = [] if idle else [*self._line.waiting, *self._line.in_hand]
        for ticket in left:
            self.cancel(ticket)
        due = time.monotonic() + 10.0
        for thread in self._threads:
            thread.join(timeout=max(0.0, due - time.monotonic()))
        self._device.close()  # takes what hangs with it

    def _main(self) -> None:
        """A thread: until drained. If it ends any other way, no request is taken any more."""
        while (ticket := self._take()) is not None:
            try:
                self._run(ticket)
            except BaseException:
                self._die(ticket)
                raise

    def _take(self) -> Ticket | None:
        """The next in line, once it may begin; None where nothing is left to do."""
        with self._lock:
            self._work.wait_for(lambda: self._next() is not None or self._is_over())
            ticket = self._next()
            if ticket is not None:
                self._line.begin(ticket)
            return ticket

    def _next(self) -> Ticket | None:
        return self._line.next() if self._alive and self._device.is_ready else None

    def _is_over(self) -> bool:
        return not self._alive or (self._draining and not self._line.waiting)

    def _finish(self, ticket: Ticket, *, lost: bool = False) -> bool:
        """It is not drawn any more; whether it waits once more, in its old place.

        At one blow: another thread may take it up at once, and then it is that one's.
        """
        with self._lock:
            self._line.end(ticket)
            hopeful = ticket.canceled_at is None and ticket.losses < MOST_LOSSES
            again = lost and hopeful and self._alive
            if again:
                self._line.join(ticket)
            # Whoever may begin now, this very thread takes it; but one with losses kept several
            # waiting, and at the end there is nothing more to wait for.
            if ticket.losses or self._draining or not self._alive:
                self._tell()
            self._quiet.notify_all()
            return again

    def _die(self, ticket: Ticket) -> None:
        """Those who wait hear of it too; what other threads draw is finished."""
        with self._lock:
            self._alive = False
            orphans = [ticket, *self._line.waiting]
            for orphan in orphans[1:]:
                self._line.leave(orphan)
        self._finish(ticket)
        for orphan in orphans:
            self._fail(orphan, WorkerLostError("the worker has died"))

    def _look(self) -> None:
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        """Wake everybody; the lock is held."""
        self._work.notify_all()
        self._quiet.notify_all()

    def _run(self, ticket: Ticket) -> None:
        try:
            end = self._draw_and_tell(ticket)
        except WorkerLostError as error:
            self._draw_again(ticket, error)
        else:
            self._finish(ticket)  # first: whoever hears of the end finds the place free
            ticket.publish(end)

    def _draw_and_tell(self, ticket: Ticket) -> Succeeded | Failed:
        """The worker's edge: whatever a run raises becomes a failed ticket and a traceback."""
        began = time.monotonic()
        if ticket.request.hears_steps:  # each event costs a turn of the event loop
            ticket.publish(Started(began - ticket.submitted))
        try:
            result = self._draw(ticket)
        except (CanceledError, InvalidRequestError) as error:
            return self._failed(ticket, error)
        except WorkerLostError:
            raise
        except Exception as error:
            logger.error("request %s failed", ticket.request.request_id, exc_info=error)
            return self._failed(ticket, error)
        with self._lock:
            self._line.learn(ticket, result.timings)
        self._metrics.observe_result(result, began - ticket.submitted)
        return Succeeded(result, began - ticket.submitted)

    def _draw(self, ticket: Ticket) -> GenerationResult:
        told = 0

        def after_step(step: int, steps: int, previews: Sequence[Preview] = ()) -> None:
            nonlocal told
            if ticket.canceled_at is not None:
                raise CanceledError(f"canceled after {step} steps")
            if step > told:
                told = step
                ticket.publish(Progress(step, steps))
            for preview in previews:  # a run that began anew shows nothing twice
                if (shown := (preview.picture, preview.number)) not in ticket.shown:
                    ticket.shown.add(shown)
                    ticket.publish(preview)

        return self._device.draw(ticket.request, after_step)

    def _draw_again(self, ticket: Ticket, error: WorkerLostError) -> None:
        """Back to its place in the queue, unless it has cost too many devices or is unwanted."""
        ticket.losses += 1
        logger.error("request %s: %s (%d)", ticket.request.request_id, error, ticket.losses)
        if self._finish(ticket, lost=True):
            return
        wanted = Problem("worker_lost", values={"received": ticket.losses}, retry_after=10.0)
        unwanted = CanceledError("canceled when its worker was lost")
        self._fail(ticket, wanted if ticket.canceled_at is None else unwanted)

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        ticket.publish(self._failed(ticket, error))

    def _failed(self, ticket: Ticket, error: BaseException) -> Failed:
        if ticket.canceled_at is not None:
            self._metrics.cancel_latency.observe(time.monotonic() - ticket.canceled_at)
        return Failed(error)
