"""Clients that mean ill or live badly: sockets, heads, bodies and paths that no library sends."""

import contextlib
import gzip
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7}
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def wait_until(condition: Callable[[], bool]) -> None:
    due = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < due, "never happened"
        time.sleep(0.01)


@contextlib.contextmanager
def connected(client: httpx.Client, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(60)
        connection.connect((client.base_url.host, client.base_url.port))
        yield connection


def answered(client: httpx.Client, *parts: bytes) -> bytes:
    """What a server says to raw bytes, until it closes; it may close while they are sent."""
    content = b""
    with connected(client) as connection, contextlib.suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
        while chunk := connection.recv(65_536):
            content += chunk
    return content


@pytest.fixture(scope="module")
def hasty(serving: Any, pipeline: Any, tmp_path_factory: Any) -> Iterator[httpx.Client]:
    """A server that gives a head and a body a quarter of a second each."""
    settings = Settings(drain_seconds=1, state=tmp_path_factory.mktemp("hasty"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.protocol.HEAD_SECONDS", 0.25)
        patch.setattr("server.middleware.BODY_SECONDS", 0.25)
        with serving(settings, pipeline) as client:
            yield client


@pytest.mark.parametrize("sent", [b"", b"POST /gen", HEAD, b"GET /livez HTTP/1.1\r\n\r\nGET /l"])
def test_half_open_connections_are_closed(hasty: httpx.Client, survived: Any, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(hasty)) for _ in range(5)]
        for connection in held:
            connection.sendall(sent.replace(b"1.1\r\n\r\n", b"1.1\r\nHost: localhost\r\n\r\n"))
        assert hasty.post("/generate", json=BODY).status_code == 200
        for connection in held:
            while connection.recv(65_536):
                pass  # until it is closed
    survived(hasty, 'connections_refused_total{reason="silent"}')


def test_connection_that_draws_longer_than_a_head_may_take_is_not_closed(
    serve: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.protocol.HEAD_SECONDS", 0.05)
    client = serve()
    job = HEAD + b'Content-Length: 32\r\n\r\n{"prompt":"a","seed":1'
    with connected(client) as connection:
        connection.sendall(job)
        time.sleep(0.2)
        connection.sendall(b"         }")
        assert gate.entered.wait(60)
        time.sleep(0.2)
        gate.open.set()
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_reader_of_one_byte_a_second_stops_nobody(client: httpx.Client, survived: Any) -> None:
    content = b'{"prompt": "a", "num_images_per_prompt": 8, "num_inference_steps": 1}'
    with connected(client, 1024) as slow:
        slow.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        assert slow.recv(1) == b"H"
        for _ in range(3):
            survived(client, 'requests_total{status="200"}')
            assert len(slow.recv(1)) == 1


def test_client_that_resets_in_the_middle_of_its_answer_is_forgotten(
    client: httpx.Client, survived: Any, caplog: pytest.LogCaptureFixture
) -> None:
    content = b'{"prompt": "a", "num_images_per_prompt": 8, "num_inference_steps": 1}'
    with connected(client, 1024) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        assert connection.recv(1) == b"H"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    survived(client, 'requests_total{status="200"}')
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 9" + b"9" * 40 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        HEAD + b"Host: elsewhere\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length : 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-Trailer: x\r\n" * 40_000,
        HEAD + b"X: " + b"x" * 600_000,
    ],
    ids=[
        *("tls", "nonsense", "no host", "null", "negative", "two", "long", "encoding", "chunk"),
        *("both", "hosts", "blank", "trailers", "value"),
    ],
)
def test_broken_http_is_refused_and_the_connection_closed(
    hasty: httpx.Client, survived: Any, sent: bytes
) -> None:
    told = answered(hasty, sent)
    assert told.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")) or told == b""
    assert b"Traceback" not in told
    survived(hasty, 'connections_refused_total{reason="broken"}')


def test_flood_of_headers_is_refused_before_it_is_kept(client: httpx.Client, survived: Any) -> None:
    line = b"X-Flood-%d: " + b"x" * 1000 + b"\r\n"
    told = answered(client, HEAD, *[line % number for number in range(2000)])
    assert told == b"" or told.startswith(b"HTTP/1.1 4")
    many = {f"X-{number}": "1" for number in range(1500)}
    assert client.get("/livez", headers=many).status_code in (200, 400, 431)
    survived(client, 'connections_refused_total{reason="broken"}')


def test_offer_of_another_protocol_is_passed_over(hasty: httpx.Client) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    content = b'{"prompt": "a", "seed": 1}'
    asked = HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(content) + content
    with connected(hasty) as connection:
        for _ in range(2):
            connection.sendall(asked)
            answer = connection.makefile("rb")
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
            lines = iter(answer.readline, b"\r\n")
            lengths = [int(line.split()[1]) for line in lines if b"content-length" in line]
            answer.read(lengths[0])


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress])
def test_compressed_bombs_are_never_unpacked(
    client: httpx.Client, survived: Any, encode: Callable[[bytes], bytes]
) -> None:
    bomb = encode(b'{"prompt": "' + b"x" * 3_000_000 + b'"}')
    assert len(bomb) < 65_536
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = client.post("/generate", content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    survived(client, 'requests_total{status="400"}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"entities":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"prompt":"' + b"\\u0000" * 9000 + b'"}',
        b'{"seed":' + b"1" * 4000 + b"}",
        b'{"guidance_scale": 1e400, "prompt": "a"}',
        b'{"prompt":' + b" " * 60_000 + b"1}",
        b"[" + b"0," * 30_000 + b"0]",
        b'{"' + b"k" * 60_000 + b'": 1}',
    ],
    ids=["nested", "deep", "nulls", "digits", "infinite", "blanks", "list", "name"],
)
def test_bombs_of_json_get_a_short_4xx(client: httpx.Client, survived: Any, body: bytes) -> None:
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 6000
    survived(client, f'requests_total{{status="{answer.status_code}"}}')


PATHS = [
    "/v1/jobs/../../../../etc/passwd",
    "/v1/jobs/%2e%2e/%2e%2e/etc/passwd",
    "/v1/jobs/..%5c..%5cetc/passwd",
    "/v1/jobs/job_x/images/..%2f..%2fjournal.sqlite3",
    "/v1/jobs/job_x/images/0%00.png",
    "/v1/jobs/%00",
    "/v1/jobs/\u202e",
    "/v1/jobs/" + "a" * 5000,
    "//etc/passwd",
    "/generate/..;/metrics",
    "/static/../server/keys.py",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_tricks_with_paths_lead_nowhere(hasty: httpx.Client, survived: Any, path: str) -> None:
    target = path.encode("utf-8", "surrogateescape") if path.isascii() else b"/v1/jobs/%E2%80%AE"
    told = answered(
        hasty, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    status = told.split(b" ", 2)[1].decode()
    assert status in ("400", "404")
    counted = "connections_refused_total" if status == "400" else "requests_total"
    survived(hasty, f'{counted}{{status="404"}}' if status == "404" else counted)
    assert b"root:" not in told
    assert b"SQLite format" not in told
