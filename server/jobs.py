"""Durable jobs: accepted into the journal, drawn through the worker's queue, kept as files.

A job's seed is fixed when it is accepted, so that a run after a crash draws the same pixels.
"""

import asyncio
import hashlib
import json
import logging
import secrets
import sqlite3
import time
import uuid
from collections.abc import Callable
from typing import Any, ParamSpec

from server.capabilities import Capabilities
from server.drawing import JobOutcome, draw_job, outcome_of_error, result_bytes
from server.errors import Problem
from server.images import ImageStore
from server.job_queue import JobQueue
from server.job_schemas import JobRequest
from server.journal import JobRecord, Journal, NewJob
from server.keys import Keys
from server.label_log import LabelLog
from server.live import LiveJob
from server.metrics import Metrics
from server.results import ResultStore, lock_state
from server.settings import Settings
from server.shares import Shares
from server.worker import Worker

_RETRY_SECONDS = 0.25  # how long to leave a worker alone that takes nothing
_SWEEP_SECONDS = 60.0
# A job that was interrupted so often is what ends the server. Killed by others, on a machine that
# finishes nothing between two kills, a server interrupts the same jobs again and again.
_MOST_ATTEMPTS = 1000

Arguments = ParamSpec("Arguments")

logger = logging.getLogger(__name__)


class Jobs:
    """All jobs of one state folder. Its coroutines belong to one event loop."""

    def __init__(
        self,
        settings: Settings,
        able: Capabilities,
        worker: Worker,
        metrics: Metrics,
        shares: Shares | None = None,
        keys: Keys | None = None,
    ) -> None:
        assert settings.state is not None, "jobs need a state folder"
        self._settings, self._able, self._worker = settings, able, worker
        self._metrics, self.keys = metrics, keys
        self._lock = lock_state(settings.state)
        self.journal = Journal(settings.state / "journal.sqlite3")
        metrics.journals.inc(self.journal.set_aside is not None)
        self.store = ResultStore(settings.state / "results")
        quota, hours = settings.state_quota_bytes, settings.retention_hours
        self.images = ImageStore(settings.state / "images", quota, hours)
        self.label_log = LabelLog(settings.state / "unlabelled.jsonl")
        self.live: dict[str, LiveJob] = {}
        self.queue = JobQueue(worker, shares or Shares(), metrics)
        self._wake = asyncio.Event()
        self.queue.changed = self._wake.set
        self._accepting = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.on_end: Callable[[JobRecord], None] = lambda _: None

    async def start(self) -> None:
        """Take up what an earlier server left, then begin to draw."""
        await asyncio.to_thread(self.store.sweep)
        for record in await asyncio.to_thread(self.journal.take_up):
            self._enqueue(LiveJob(record, JobRequest.model_validate(record.request)))
        self._tasks = [asyncio.create_task(self._feed()), asyncio.create_task(self._sweep())]

    async def close(self) -> None:
        """After the worker's end: note how the last jobs ended; those that wait stay written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running, return_exceptions=True)
        for live in self.live.values():
            if live.timer is not None:
                live.timer.cancel()
        await asyncio.to_thread(self.journal.close)
        self._lock.close()

    async def accept(self, asked: JobRequest, owner: str, key: str | None) -> JobRecord:
        """Write a job down and put it into the queue; returns when it is safe on the disk.

        Raises `Problem`: draining, overloaded, storage_unavailable, idempotency_conflict.
        """
        async with self._accepting:  # else two requests with one key might both be new
            job = self._new_job(asked, owner, key)
            try:
                await self._check_room(job)
                record = await asyncio.to_thread(self.journal.accept, job)
            except sqlite3.Error as error:
                logger.error("a job could not be written down", exc_info=error)
                self._metrics.admission_rejected.labels(reason="storage_unavailable").inc()
                raise Problem(
                    "storage_unavailable", values={"reason": "disk"}, retry_after=30.0
                ) from error
            if record.id != job.id:
                return _same_request(record, job)
            self._enqueue(LiveJob(record, asked))
        self._metrics.jobs.labels(status="accepted").inc()
        return record

    async def find(self, job_id: str, owner: str) -> JobRecord:
        """A job of this owner. Raises `Problem`: job_not_found, job_expired."""
        if (live := self.live.get(job_id)) is not None and live.record.owner == owner:
            return live.record
        record = await asyncio.to_thread(self.journal.get, job_id)
        if record is None or record.owner != owner:
            raise Problem("job_not_found", values={"received": repr(job_id[:60])})
        if record.is_forgotten:
            hours = self._settings.retention_hours
            raise Problem("job_expired", values={"received": job_id, "allowed": f"{hours:g}"})
        return record

    async def cancel(self, record: JobRecord) -> JobRecord:
        """End a job: at once where it waits, within a step where it is drawn.

        Raises `Problem` job_over where it has ended already, in whatever way.
        """
        live = self.live.get(record.id)
        if live is not None:
            await self._give_up(live, "canceled")
            await live.over.wait()
            record = live.record
        if live is None or record.status != "canceled":
            raise Problem("job_over", values={"received": record.id, "status": record.status})
        return record

    def put_back(self, live: LiveJob) -> JobOutcome | None:
        """A job that the worker would not take; its outcome, if it was given up meanwhile."""
        if live.ending is not None:
            return JobOutcome(live.ending, None)
        self.queue.add(live)
        return None

    async def written(
        self, write: Callable[Arguments, JobRecord], *args: Arguments.args, **more: Arguments.kwargs
    ) -> JobRecord:
        """Write to the journal; while the disk refuses, again every second until the end."""
        while True:
            try:
                return await asyncio.to_thread(write, *args, **more)
            except sqlite3.Error as error:
                logger.error("the journal cannot be written", exc_info=error)
                if self._worker.is_draining:
                    raise
                await asyncio.sleep(1.0)

    def _new_job(self, asked: JobRequest, owner: str, key: str | None) -> NewJob:
        request = asked.model_dump(mode="json", exclude_unset=True)
        content = json.dumps(request, sort_keys=True, ensure_ascii=False).encode()
        seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
        return NewJob(
            id=f"job_{uuid.uuid4().hex}",
            owner=owner,
            idempotency_key=key,
            request_sha256=hashlib.sha256(content).hexdigest(),
            request=request,
            seed=seed,
            priority=asked.priority,
            reserved=result_bytes(asked, self._able),
        )

    async def _check_room(self, job: NewJob) -> None:
        """Raises `Problem` where the queue or the folder is full, or the server is ending."""
        if self._worker.is_draining:
            raise Problem("draining", retry_after=5.0)
        ahead, waiting = self.queue.work_seconds(), len(self.queue)
        late = ahead + self.queue.seconds(job.request) - self._settings.job_seconds
        if waiting >= self._settings.job_limit or (waiting and late > 0):
            self._metrics.admission_rejected.labels(reason="overloaded").inc()
            values = {"received": waiting, "seconds": round(ahead)}
            raise Problem("overloaded", values=values, retry_after=max(1.0, late, ahead / 10))
        held = self.images.held + await asyncio.to_thread(self.journal.bytes_held)
        if held + job.reserved > self._settings.state_quota_bytes:
            oldest = await asyncio.to_thread(self.journal.oldest_result) or time.time()
            due = oldest + 3600 * self._settings.retention_hours - time.time()
            self._metrics.admission_rejected.labels(reason="storage_unavailable").inc()
            reason = f"{held} of {self._settings.state_quota_bytes} bytes are taken"
            raise Problem(
                "storage_unavailable", values={"reason": reason}, retry_after=max(60.0, due)
            )

    def _enqueue(self, live: LiveJob) -> None:
        self.live[live.record.id] = live
        if live.asked.deadline_ms is not None:
            left = live.record.created + live.asked.deadline_ms / 1000 - time.time()
            loop = asyncio.get_running_loop()
            live.timer = loop.call_later(max(0.0, left), self._expire, live)
        self.queue.add(live)

    def _expire(self, live: LiveJob) -> None:
        task = asyncio.create_task(self._give_up(live, "expired"))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _give_up(self, live: LiveJob, ending: str) -> None:
        live.ending = live.ending or ending
        if live in self.queue:
            self.queue.remove(live)
            await self._finish(live, JobOutcome(live.ending, None))
        elif live.ticket is not None:
            self._worker.cancel(live.ticket)

    async def _feed(self) -> None:
        """For ever: when the worker has a place for a job, give it the next one."""
        # While one is encoded and stored, the next is drawn.
        places = asyncio.Semaphore(self._able.concurrency + 1)
        while True:
            await places.acquire()
            while not self.queue or self._worker.obstacle is not None:
                self._wake.clear()
                if self.queue:
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    await self._wake.wait()
            task = asyncio.create_task(self._perform(self.queue.take()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(lambda _: places.release())

    async def _perform(self, live: LiveJob) -> None:
        """One job from the queue to its end; without one where the server ends before it."""
        try:
            if live.record.attempts >= _MOST_ATTEMPTS:
                problem = Problem("worker_lost", values={"received": live.record.attempts})
                outcome: JobOutcome | None = outcome_of_error(problem)
            else:
                outcome = await draw_job(self, live, self._worker, self._able, self._settings)
        except Exception as error:  # a worker's edge
            logger.error("job %s failed", live.record.id, exc_info=error)
            outcome = outcome_of_error(error)
        if outcome is not None:
            await self._finish(live, outcome)

    async def _finish(self, live: LiveJob, outcome: JobOutcome) -> None:
        number = live.next_number
        record = await self.written(
            self.journal.finish,
            live.record.id,
            outcome.status,
            number,
            outcome.content,
            outcome.size,
        )
        self._metrics.jobs.labels(status=record.status).inc()
        del self.live[record.id]
        live.end(record)
        self.on_end(record)

    async def _sweep(self) -> None:
        while True:
            before = time.time() - 3600 * self._settings.retention_hours
            try:
                gone = await asyncio.to_thread(self.journal.forget, before)
                await asyncio.to_thread(self.store.remove, gone)
                await asyncio.to_thread(self.images.sweep)
                await asyncio.to_thread(self.label_log.sweep)
            except (sqlite3.Error, OSError) as error:
                logger.error("old jobs could not be forgotten", exc_info=error)
            await asyncio.sleep(_SWEEP_SECONDS)


def _same_request(record: JobRecord, job: NewJob) -> JobRecord:
    if record.request_sha256 != job.request_sha256:
        received: Any = repr((job.idempotency_key or "")[:60])
        raise Problem("idempotency_conflict", values={"received": received})
    return record
