"""Webhooks: the end of a job is told to the URL that its client gave, at least once.

Signed as Standard Webhooks say (https://www.standardwebhooks.com, symmetric signatures), with a
secret that the client derives from its key. What is still to be told stands in the journal.
"""

import asyncio
import base64
import hmac
import json
import logging
import random
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from weakref import WeakValueDictionary

from rapid_diffusion import __version__
from server.errors import invalid
from server.journal import JobRecord, Journal
from server.keys import Keys
from server.metrics import Metrics
from server.outbox import Outbox, Untold
from server.outgoing import Target, UrlError, parse_target, post
from server.settings import Settings

_LONGEST_PAUSE = 3600.0
_MOST_AT_ONCE = 16
_MOST_A_HOST = 4
_PURPOSE = b"rapid-diffusion webhook v1"
Result = Literal["delivered", "failed", "refused", "abandoned"]

logger = logging.getLogger(__name__)


def check_webhook(url: str, settings: Settings) -> None:
    """Raises `Problem`, naming the field, for a URL that nothing would be sent to."""
    if settings.keys_file is None:
        raise invalid("webhook", "webhook_keys", url)
    try:
        parse_target(url, settings.webhook_hosts)
    except UrlError as error:
        raise invalid("webhook", error.reason, url) from None


def webhook_secret(key_sha256: str) -> bytes:
    """The secret of the key with this hash; `whsec_` and its base64 is what libraries take.

    HMAC-SHA256 of a fixed purpose under the SHA-256 of the key: both sides can make it, and it
    opens nothing else.
    """
    return hmac.digest(bytes.fromhex(key_sha256), _PURPOSE, "sha256")


def sign(secret: bytes, message_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a body, and when (seconds since 1970)."""
    signed = f"{message_id}.{seconds}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{signature}",
    }


class Webhooks:
    """Everything that is to be told of the jobs of one journal. Its coroutines share one loop.

    `view` makes of a job what its client would read.
    """

    def __init__(
        self,
        journal: Journal,
        keys: Keys | None,
        settings: Settings,
        metrics: Metrics,
        view: Callable[[JobRecord], dict[str, Any]],
    ) -> None:
        self._journal, self._outbox = journal, Outbox(journal)
        self._keys, self._settings, self._metrics = keys, settings, metrics
        self._view = view
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._closed = False

    async def start(self) -> None:
        """Take up what an earlier server has not told."""
        for untold in await asyncio.to_thread(self._outbox.untold):
            self._begin(untold)

    def job_ended(self, record: JobRecord) -> None:
        """Tell of a job that has just ended, if its client asked for it; returns at once."""
        if record.request.get("webhook") is not None:
            self._begin(Untold(record.id))

    async def close(self) -> None:
        """Leave what is not told to the next server."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, untold: Untold) -> None:
        if self._closed:
            return
        task = asyncio.create_task(self._tell(untold))
        self._tasks.add(task)
        self._metrics.webhooks_waiting.set(len(self._tasks))
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._metrics.webhooks_waiting.set(len(self._tasks))
        if not task.cancelled() and task.exception() is not None:
            logger.error("a webhook failed", exc_info=task.exception())

    async def _tell(self, untold: Untold) -> None:
        """Until it is told, or has been tried often enough."""
        attempts, due = untold.attempts, untold.due
        while True:
            await asyncio.sleep(min(_LONGEST_PAUSE, max(0.0, due - time.time())))
            result = await self._attempt(untold.job_id)
            attempts += 1
            if result == "failed" and attempts >= self._settings.webhook_attempts:
                result = "abandoned"
            self._metrics.webhooks.labels(result=result).inc()
            due = time.time() + self._pause(attempts)
            ended = None if result == "failed" else result
            try:
                await asyncio.to_thread(self._outbox.note, untold.job_id, attempts, due, ended)
            except sqlite3.Error as error:  # it is told once more after a restart
                logger.error("the journal cannot be written", exc_info=error)
            if ended is not None:
                return

    async def _attempt(self, job_id: str) -> Result:
        record = await asyncio.to_thread(self._journal.get, job_id)
        if record is None or record.is_forgotten or self._keys is None:
            return "abandoned"
        digest = self._keys.digest(record.owner)
        if digest is None:
            return "abandoned"  # its key is gone: nobody could check the signature
        try:
            target = parse_target(record.request["webhook"], self._settings.webhook_hosts)
            status = await self._send(target, record, webhook_secret(digest))
        except UrlError as error:
            logger.warning("webhook of %s: %s", job_id, error.reason)
            return "refused"
        except (OSError, TimeoutError) as error:  # the URL itself may hold a secret
            logger.info("webhook of %s: %s: %s", job_id, type(error).__name__, error)
            return "failed"
        if 200 <= status < 300:
            return "delivered"
        logger.info("webhook of %s: answered with %d", job_id, status)
        return "refused" if status == 410 else "failed"

    async def _send(self, target: Target, record: JobRecord, secret: bytes) -> int:
        ended = datetime.fromtimestamp(record.finished or 0.0, UTC)
        event = {
            "type": f"job.{record.status}",
            "timestamp": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": self._view(record),
        }
        body = json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
        host = self._hosts.setdefault(target.host, asyncio.Semaphore(_MOST_A_HOST))
        async with host, self._places:
            message_id = record.id.replace("job_", "msg_", 1)
            headers = {
                "Content-Type": "application/json",
                "User-Agent": f"rapid-diffusion/{__version__}",
                **sign(secret, message_id, int(time.time()), body),
            }
            return await post(target, body, headers)

    def _pause(self, attempts: int) -> float:
        """Seconds until the next attempt: three times the last, and never the same for two."""
        longest = min(_LONGEST_PAUSE, self._settings.webhook_retry_seconds * 3 ** (attempts - 1))
        return longest * random.uniform(0.75, 1.25)
