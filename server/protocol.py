"""uvicorn's HTTP/1.1, without endless patience for clients that never finish a request."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0  # to send a request's head; its body has its own time in `middleware`


class PatientProtocol(H11Protocol):
    """Closes a connection that is silent, or sends half a head, for `HEAD_SECONDS`.

    uvicorn itself waits for the first byte for ever, and for the rest of a head too: a few hundred
    such connections would use up the file descriptors of the process.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection."""
        super().connection_made(transport)
        self._heads = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its end."""
        self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """One request is over; the time of the next one's head begins."""
        self._heads += 1
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP/1.1, or too much of it."""
        self._count("broken")
        super().send_400_response(msg)

    def _count(self, reason: str) -> None:
        app: Any = self.config.app
        app.state.service.metrics.connections_refused.labels(reason=reason).inc()

    def _look(self, heads: int) -> None:
        waits_for_head: Any = self.conn.their_state is h11.IDLE
        if waits_for_head and self._heads == heads:
            self._count("silent")
            self.transport.close()
        else:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._look, self._heads)
