"""Server-sent events: a job's events as text, with a heartbeat while nothing happens."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from server.journal import JobRecord
from server.live import LiveJob, past_events
from server.worker import Worker

HEARTBEAT_SECONDS = 15.0
_LOOK_SECONDS = 0.5  # how often a silent stream looks whether the server is ending


def sse_text(name: str, data: dict[str, Any], number: int | None = None) -> str:
    """One event. JSON has no raw line breaks, so that the data is one line."""
    identity = "" if number is None else f"id: {number}\n"
    content = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return f"{identity}event: {name}\ndata: {content}\n\n"


async def event_stream(
    live: LiveJob | None, record: JobRecord, after: int, worker: Worker
) -> AsyncIterator[str]:
    """The events of a job with numbers above `after`; ends with the job, or with the server.

    A client that is cut off comes back with `Last-Event-ID`, as browsers do by themselves.
    """
    if live is not None:
        async for text in _coming(live, after, worker):
            yield text
        return
    for event in past_events(record):
        if event.number > after:
            yield sse_text(event.name, event.data, event.number)


async def _coming(live: LiveJob, after: int, worker: Worker) -> AsyncIterator[str]:
    events, silent = live.listen(after), 0.0
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=_LOOK_SECONDS)
            if done:
                if (event := coming.result()) is None:
                    return
                yield sse_text(event.name, event.data, event.number)
                coming, silent = asyncio.ensure_future(anext(events, None)), 0.0
            elif worker.is_draining:
                return
            elif (silent := silent + _LOOK_SECONDS) >= HEARTBEAT_SECONDS:
                silent = 0.0
                yield ": heartbeat\n\n"
    finally:
        coming.cancel()
