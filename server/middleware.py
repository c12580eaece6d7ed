"""What every request passes, before and after its route: identity, host and origin, body size."""

import asyncio
import logging
import re
import secrets
import time
import uuid
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import Problem, problem_response, shown
from server.keys import Keys
from server.metrics import Metrics
from server.settings import LOOPBACK_NAMES, Settings

BODY_SECONDS = 30.0  # 64 KiB at the speed of a modem; a body of a byte a second holds no place
_UNCOUNTED = ("/livez", "/readyz", "/startupz", "/version", "/metrics", "/openapi.json")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")

logger = logging.getLogger(__name__)


class RequestContext:
    """Gives each request an id and a trace, answers with both, counts and logs the answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Request(scope).headers
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        trace = _child_trace(headers.get("traceparent", ""))
        scope.setdefault("state", {}).update(request_id=request_id, began=time.monotonic())

        status = 500  # what Starlette answers, outside of us, where an exception passes

        async def send_with_context(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"], answer["traceparent"] = request_id, trace
            await send(message)

        try:
            await self.app(scope, receive, send_with_context)
        finally:
            if scope["path"] not in _UNCOUNTED and not scope["path"].startswith("/admin/"):
                self.metrics.requests.labels(status=str(status)).inc()
            _log(scope, status, request_id)


def _log(scope: Scope, status: int, request_id: str) -> None:
    """One line an answer, once it is sent. Without the query: it may hold a prompt."""
    client = scope["client"] or ("-", 0)
    milliseconds = 1000 * (time.monotonic() - scope["state"]["began"])
    path = scope["raw_path"].decode("ascii", "backslashreplace")
    line = '%s:%d "%s %s" %d %.0f ms %s'
    logger.info(line, *client[:2], scope["method"], path, status, milliseconds, request_id)


class Guard:
    """Refuses foreign hosts and origins, large bodies and missing keys before anything is read."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys | None) -> None:
        self.app, self.settings, self.keys = app, settings, keys
        self._hosts: list[str] | None = None  # None: any
        if settings.is_loopback:  # a page elsewhere could reach us under its own name (rebinding)
            names = [*LOOPBACK_NAMES, settings.host, *settings.allowed_hosts]
            self._hosts = list(dict.fromkeys(names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self._check_host(request)
            _check_origin(request)
            _check_length(request, self.settings.body_limit)
            if self.keys is not None and needs_key(scope["path"]):
                scope["state"]["owner"] = _owner(request, self.keys)
        except Problem as problem:
            await problem_response(request, problem)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_host(self, request: Request) -> None:
        received = request.headers.get("host", "")
        if self._hosts is not None and _host_name(received) not in self._hosts:
            values = {"received": shown(received), "allowed": ", ".join(self._hosts)}
            raise Problem("forbidden_host", values=values)


def needs_key(path: str) -> bool:
    """Everything but the probes, the metrics and the OpenAPI document."""
    return path == "/generate" or path.startswith(("/v1/", "/admin/"))


def _owner(request: Request, keys: Keys) -> str:
    kind, _, presented = request.headers.get("authorization", "").partition(" ")
    owner = keys.owner(presented.strip()) if kind.lower() == "bearer" else None
    if owner is None:
        raise Problem("unauthorized")
    return owner


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _check_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    if request.method in ("GET", "HEAD") or origin is None:
        return
    if origin.partition("://")[2] != request.headers.get("host"):
        raise Problem("cross_origin", values={"received": shown(origin)})


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:12]) > limit:
        values = {"received": length, "allowed": limit}
        raise Problem("body_too_large", param="body", values=values)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is larger than `limit` bytes, or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    values = {"received": f"more than {limit}", "allowed": limit}
                    raise Problem("body_too_large", param="body", values=values)
    except TimeoutError:
        raise Problem("slow_body", param="body", values={"allowed": BODY_SECONDS}) from None
    return bytes(body)


def _child_trace(parent: str) -> str:
    """A W3C trace context: the caller's trace with a span of ours, or a new trace."""
    found = _TRACEPARENT.fullmatch(parent)
    trace, flags = found.groups() if found else (secrets.token_hex(16), "00")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"
