"""A POST to an address that a client named: none that is private, however written."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from server import outgoing
from server.outgoing import UrlError, is_public, parse_target, post

# Made by openssl for these tests and used nowhere else; it names localhost.
CERTIFICATE = Path(__file__).parents[1] / "data" / "localhost.pem"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b::7f00:1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378::", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("::", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("198.18.0.1", False),
    ],
)
def test_private_addresses_are_known_in_every_disguise(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_name_that_has_one_private_address_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", (address, 0)) for address in ("93.184.216.34", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(UrlError, match="webhook_private"):
        asyncio.run(post(parse_target("https://shop.example/", []), b"", {}))
    assert asked == ["shop.example"]  # and nobody asks again, so nobody can answer otherwise


def test_receiver_that_dribbles_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "POST_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TimeoutError):
            asyncio.run(post(parse_target(f"http://{host}/", [host]), b"{}", {}))


@pytest.mark.parametrize("said", [b"", b"hello\r\n", b"x" * 100_000, b"HTTP/1.1 999 no\r\n"])
def test_answer_that_is_not_http_is_a_failure(said: bytes) -> None:
    async def talk() -> int:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return await post(parse_target(f"http://{host}/", [host]), b"{}", {})

    with pytest.raises(OSError, match=r"HTTP|closed|reset|Broken"):
        asyncio.run(talk())


@pytest.mark.parametrize(
    ("host", "trusted", "heard"),
    [("localhost", True, True), ("localhost", False, False), ("127.0.0.1", True, False)],
)
def test_https_reaches_only_who_proves_the_name(
    host: str, trusted: bool, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = []
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(CERTIFICATE)
    if trusted:
        theirs = ssl.create_default_context(cafile=str(CERTIFICATE))
        monkeypatch.setattr(outgoing, "_trusting", lambda: theirs)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n{}"))
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n")
        await writer.drain()
        writer.transport.abort()

    async def talk() -> int:
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=ours) as server:
            place = f"{host}:{server.sockets[0].getsockname()[1]}"
            target = parse_target(f"https://{place}/hook", [place])
            return await post(target, b"{}", {"webhook-id": "msg_1"})

    if heard:
        assert asyncio.run(talk()) == 204
        assert received[0].startswith(b"POST /hook HTTP/1.1\r\nHost: localhost:")
        assert b"\r\nwebhook-id: msg_1\r\n" in received[0]
    else:
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(talk())
        assert received == []
