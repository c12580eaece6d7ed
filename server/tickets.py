"""Accepted requests, and the events that tell how they fare."""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from rapid_diffusion import GenerationResult
from server.device import Preview, WorkRequest

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


Event = Started | Progress | Preview | Succeeded | Failed


@dataclass(eq=False)
class Ticket:
    """One accepted request. Routes hand it back to the worker and look at nothing inside."""

    request: WorkRequest
    loop: asyncio.AbstractEventLoop
    submitted: float = field(default_factory=time.monotonic)
    outbox: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    canceled_at: float | None = None
    losses: int = 0
    shown: set[tuple[int, int]] = field(default_factory=set)  # previews: picture and number
    company: tuple[float, float] = (0.0, 0.0)  # as `Company.begin` says

    def publish(self, event: Event) -> None:
        """Hand an event to the event loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self.outbox.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server is gone, and so is the listener
            logger.info("request %s: nobody is left to hear its end", self.request.request_id)
