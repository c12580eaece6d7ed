"""One POST to an address that a client named: nowhere private, and nowhere else than it said.

The name is resolved once, every address it has is looked at, and the connection goes to one of
those; so a name that answers differently a moment later leads nowhere. Redirects are answers like
any other.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

POST_SECONDS = 15.0  # for everything, from the name to the status
_PRINTABLE = re.compile(r"[!-~]+")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r?\n)")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV6_UNICAST = ipaddress.ip_network("2000::/3")
_MOST_INTERIM = 5  # answers of the kind 1xx before the real one

# A resolver that hangs holds these threads and no others.
_resolving = ThreadPoolExecutor(4, "webhook-names")


class UrlError(ValueError):
    """A URL that nothing is sent to; `reason` is "webhook_url" or "webhook_private"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Target:
    """Where to send; `trusted` ones may be private and without encryption."""

    scheme: str
    host: str
    port: int
    path: str
    trusted: bool

    @property
    def authority(self) -> str:
        """The Host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        default = {"https": 443, "http": 80}[self.scheme]
        return name if self.port == default else f"{name}:{self.port}"


def parse_target(url: str, trusted: Sequence[str]) -> Target:
    """Raises `UrlError` for anything but https to a host, or http too to a trusted one.

    `trusted` names hosts, or host:port. An address that is written out is checked at once; a name
    is checked when it is resolved.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UrlError("webhook_url") from None
    scheme = parts.scheme
    plain = host and not parts.fragment and "@" not in parts.netloc and _PRINTABLE.fullmatch(url)
    if not plain or scheme not in ("https", "http") or port == 0:
        raise UrlError("webhook_url")
    port = port or (443 if scheme == "https" else 80)
    trusts = {entry.lower() for entry in trusted}
    is_trusted = host in trusts or f"{host}:{port}" in trusts
    if scheme == "http" and not is_trusted:
        raise UrlError("webhook_url")
    if not is_trusted and _is_written_private(host):
        raise UrlError("webhook_private")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme, host, port, path, is_trusted)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the whole internet, also where IPv6 hides an IPv4 one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        hidden = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            hidden = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if found.teredo is not None:
            return False
        if hidden is not None:
            return is_public(str(hidden))
        if found not in _IPV6_UNICAST:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


async def post(target: Target, body: bytes, headers: dict[str, str]) -> int:
    """Send, and return the status; the body of the answer is not read.

    Raises `UrlError` where the name leads to a private address, `OSError` (also of TLS and of
    names) or `TimeoutError` where there is no answer.
    """
    async with asyncio.timeout(POST_SECONDS):
        reader, writer = await _connect(target, await _resolve(target))
        try:
            lines = [f"POST {target.path} HTTP/1.1", f"Host: {target.authority}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
            writer.write("\r\n".join(lines).encode("ascii") + body)
            await writer.drain()
            return await _read_status(reader)
        finally:
            writer.transport.abort()  # a polite end could take as long as the other side likes


async def _resolve(target: Target) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            _resolving, lambda: socket.getaddrinfo(target.host, None, type=socket.SOCK_STREAM)
        )
    except UnicodeError as error:
        raise OSError(f"no name for DNS: {error}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not target.trusted and not all(map(is_public, addresses)):
        raise UrlError("webhook_private")
    return addresses


async def _connect(
    target: Target, addresses: list[str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first address that takes us."""
    secured = target.scheme == "https"
    failure = OSError("the name has no address")
    for address in addresses[:4]:
        try:
            return await asyncio.open_connection(
                address,
                target.port,
                ssl=_trusting() if secured else None,
                server_hostname=target.host if secured else None,
            )
        except OSError as error:
            failure = error
    raise failure


async def _read_status(reader: asyncio.StreamReader) -> int:
    for _ in range(_MOST_INTERIM):
        found = _STATUS.match(await _line(reader))
        if found is None:
            raise OSError("the answer is not HTTP")
        status = int(found[1])
        if status >= 200:
            return status
        while (await _line(reader)).strip():
            pass
    raise OSError("the answer does not come to its end")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ValueError:  # longer than the reader holds
        raise OSError("the answer is not HTTP") from None
    if not line:
        raise OSError("the connection was closed without an answer")
    return line


@cache
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context()


def _is_written_private(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
