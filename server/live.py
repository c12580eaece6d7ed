"""A job that is not over: its request, the events so far, and everybody who waits for the next.

Numbers of events only rise, across restarts too: those of the n-th attempt begin at 1000 n.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from server.job_schemas import JobRequest
from server.journal import JobRecord
from server.worker import Ticket

QUEUED = 1
_EVENTS_OF_AN_ATTEMPT = 1000
COMPLETED = "image_generation.completed"


@dataclass(frozen=True)
class JobEvent:
    """One event of a job; `number` is unique in the job and rises."""

    number: int
    name: str
    data: dict[str, Any]


class LiveJob:
    """The part of a job that lives in memory; the journal has the rest."""

    def __init__(self, record: JobRecord, asked: JobRequest) -> None:
        self.record, self.asked = record, asked
        self.ticket: Ticket | None = None
        self.ending: str | None = None  # canceled or expired, once that has been asked for
        self.progress: tuple[int, int] | None = None
        self.over = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        # After a restart nobody knows how far the last attempt came: its whole room is used up.
        room = _EVENTS_OF_AN_ATTEMPT - 1 if record.attempts else QUEUED
        self._number = record.attempts * _EVENTS_OF_AN_ATTEMPT + room
        self._events = [JobEvent(QUEUED, "queued", {"id": record.id})]
        self._changed = asyncio.Event()

    @property
    def next_number(self) -> int:
        """The number that the next event gets."""
        return self._number + 1

    def begin_attempt(self) -> int:
        """Leave room for what earlier attempts have told; returns the number of its first event."""
        self._number = (self.record.attempts + 1) * _EVENTS_OF_AN_ATTEMPT
        return self.next_number

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """Tell an event to all who listen; `data` gets the job's id."""
        self._number = self.next_number
        self._events.append(JobEvent(self._number, name, {"id": self.record.id, **data}))
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self, record: JobRecord) -> None:
        """The last event: told to those who listen, then there are no more."""
        self.record = record
        if self.timer is not None:
            self.timer.cancel()
        self.publish(*last_event(record))
        self.over.set()

    async def listen(self, after: int) -> AsyncIterator[JobEvent]:
        """The events with a number above `after`, then those to come; ends with the job."""
        place = 0
        while True:
            changed, over = self._changed, self.over.is_set()
            while place < len(self._events):  # it may grow while a slow listener has one in hand
                event = self._events[place]
                place += 1
                if event.number > after:
                    yield event
            if over:
                return
            if not changed.is_set():
                await changed.wait()


def last_event(record: JobRecord) -> tuple[str, dict[str, Any]]:
    """The name and the data of the event that ends a job."""
    if record.status == "succeeded":
        return COMPLETED, {"status": record.status, "result": record.result}
    return "error", {"status": record.status, "error": record.error}


def past_events(record: JobRecord) -> list[JobEvent]:
    """What is left to tell of a job that is over: how it began and how it ended."""
    name, data = last_event(record)
    return [
        JobEvent(QUEUED, "queued", {"id": record.id}),
        JobEvent(record.last_event, name, {"id": record.id, **data}),
    ]
