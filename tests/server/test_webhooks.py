"""Webhooks: signed so that a client can tell, told until it is heard, and sent nowhere private."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.journal import Journal, NewJob
from server.keys import new_key
from server.outbox import Outbox, Untold
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7, "num_inference_steps": 1}


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, and answers with `statuses` one after the other, then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.host}/hook?to=me"

    def events(self, count: int) -> list[tuple[str, dict[str, str], bytes]]:
        """Wait until so much was heard."""
        due = time.monotonic() + 60
        while len(self.heard) < count:
            assert time.monotonic() < due, "never heard"
            time.sleep(0.01)
        return self.heard


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.server.heard.append((self.path, headers, body))
        self.send_response(status)
        self.send_header("Location", f"http://{self.server.host}/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def shop(tmp_path: Path) -> dict[str, Any]:
    """A key, and the settings of a server that has it."""
    text, kept = new_key("shop")
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [kept.model_dump()]}))
    settings = {"keys_file": path, "state": tmp_path / "state", "webhook_retry_seconds": 0.05}
    return {"headers": {"Authorization": f"Bearer {text}"}, "key": text, "settings": settings}


@pytest.fixture
def keyed(
    serve: Callable[..., httpx.Client], gate: Any, shop: dict[str, Any], receiver: Receiver
) -> Callable[..., httpx.Client]:
    """`keyed()` starts a server that knows the key and may send to the receiver."""

    def start(**given: Any) -> httpx.Client:
        gate.open.set()
        hosts = {"webhook_hosts": [receiver.host]}
        client = serve(**shop["settings"] | hosts | given)
        client.headers.update(shop["headers"])
        return client

    return start


def signature(key: str, headers: dict[str, str], body: bytes) -> str:
    """As docs/service.md tells a client to make it, from its key alone."""
    digest = hashlib.sha256(key.encode()).digest()
    secret = hmac.digest(digest, b"rapid-diffusion webhook v1", "sha256")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()


def job_of(client: httpx.Client, url: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=BODY | {"webhook": url} | more)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_end_of_a_job_is_told_once_signed_and_as_it_is_read(
    keyed: Any, receiver: Receiver, shop: dict[str, Any]
) -> None:
    client = keyed()
    job = job_of(client, receiver.url)
    path, headers, body = receiver.events(1)[0]
    event = json.loads(body)
    assert path == "/hook?to=me"
    assert headers["webhook-signature"] == signature(shop["key"], headers, body)
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert (event["type"], event["data"]["id"]) == ("job.succeeded", job["id"])
    assert event["data"] == client.get(f"/v1/jobs/{job['id']}").json()
    time.sleep(0.2)
    assert len(receiver.heard) == 1
    assert 't2i_webhooks_total{result="delivered"} 1.0' in client.get("/metrics").text


def test_failures_are_repeated_with_the_same_id_until_heard(
    keyed: Any, receiver: Receiver, shop: dict[str, Any]
) -> None:
    receiver.statuses = [500, 302, 404]
    client = keyed()
    job_of(client, receiver.url)
    heard = receiver.events(4)
    assert {path for path, _, _ in heard} == {"/hook?to=me"}  # a redirect leads nowhere
    assert len({headers["webhook-id"] for _, headers, _ in heard}) == 1
    assert len({body for _, _, body in heard}) == 1
    for _, headers, body in heard:
        assert headers["webhook-signature"] == signature(shop["key"], headers, body)


def test_it_is_given_up_after_the_last_attempt_or_by_410(keyed: Any, receiver: Receiver) -> None:
    client = keyed(webhook_attempts=2)
    receiver.statuses = [500, 500]
    job_of(client, receiver.url)
    receiver.events(2)
    receiver.statuses = [410]
    job_of(client, receiver.url)
    receiver.events(3)
    time.sleep(0.3)
    text = client.get("/metrics").text
    assert len(receiver.heard) == 3
    for result, count in (("failed", 1), ("abandoned", 1), ("refused", 1)):
        assert f't2i_webhooks_total{{result="{result}"}} {count}.0' in text
    assert "t2i_webhooks_waiting 0.0" in text


def test_canceled_job_is_told_too(
    serve: Any, gate: Any, shop: dict[str, Any], receiver: Receiver
) -> None:
    client = serve(**shop["settings"], webhook_hosts=[receiver.host])
    client.headers.update(shop["headers"])
    job = job_of(client, receiver.url)
    assert gate.entered.wait(60)
    waiting = job_of(client, receiver.url)
    client.post(f"/v1/jobs/{waiting['id']}/cancel")
    _, _, body = receiver.events(1)[0]
    assert (json.loads(body)["type"], json.loads(body)["data"]["id"]) == (
        "job.canceled",
        waiting["id"],
    )
    assert job["id"] != waiting["id"]


def test_what_was_not_heard_is_told_after_a_restart(
    serving: Any, pipeline: Any, receiver: Receiver, shop: dict[str, Any]
) -> None:
    receiver.statuses = [503] * 1000
    settings = Settings(**shop["settings"], webhook_hosts=[receiver.host])
    with serving(settings, pipeline) as client:
        client.headers.update(shop["headers"])
        job = job_of(client, receiver.url)
        receiver.events(1)
    receiver.statuses = []
    before = len(receiver.heard)
    with serving(settings, pipeline):
        _, headers, body = receiver.events(before + 1)[-1]
    assert json.loads(body)["data"]["id"] == job["id"]
    assert headers["webhook-id"] == receiver.heard[0][1]["webhook-id"]


def accept(journal: Journal, name: str, **request: Any) -> None:
    journal.accept(NewJob(name, "shop", None, name, {"prompt": "画", **request}, 1, 0, 0))


def test_killed_between_the_end_and_the_telling_it_is_still_to_be_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    for name in ("told", "untold", "later"):
        accept(journal, name, webhook="https://shop.example/hook")
    accept(journal, "mute")
    accept(journal, "word", prompt='"webhook": "https://x"')
    for name in ("told", "untold", "mute", "word"):
        journal.finish(name, "succeeded", 2, {}, 0)
    outbox = Outbox(journal)
    outbox.note("told", 1, 0.0, "delivered")
    assert outbox.untold() == [Untold("untold")]
    outbox.note("untold", 3, 12.5, None)
    assert Outbox(journal).untold() == [Untold("untold", 3, 12.5)]
    journal.forget(time.time() + 1)
    assert outbox.untold() == []
    journal.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/hook",
        "ftp://shop.example/",
        "file:///etc/passwd",
        "https://",
        "https:///hook",
        "https://user:secret@shop.example/",
        "https://shop.example/#part",
        "https://shop.example/a b",
        "https://shop.example/\u3000",
        "https://商店.example/",
        "https://shop.example:0/",
        "https://shop.example:70000/",
        "https://[::1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost:8000/",
        "https://api.localhost/",
    ],
)
def test_urls_that_lead_nowhere_good_are_refused_by_name(url: str, keyless: httpx.Client) -> None:
    answer = keyless.post("/v1/jobs", json=BODY | {"webhook": url})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "webhook")


@pytest.fixture(scope="module")
def keyless(
    serving: Any, pipeline: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A server with one key, which every request sends; nothing is allow-listed."""
    folder = tmp_path_factory.mktemp("webhooks")
    text, kept = new_key("shop")
    (folder / "keys.json").write_text(json.dumps({"keys": [kept.model_dump()]}))
    settings = Settings(keys_file=folder / "keys.json", state=folder / "state")
    with serving(settings, pipeline) as client:
        client.headers["Authorization"] = f"Bearer {text}"
        yield client


def test_without_keys_nothing_could_be_signed(serve: Any, tmp_path: Path) -> None:
    client = serve(state=tmp_path / "state")
    answer = client.post("/v1/jobs", json=BODY | {"webhook": "https://shop.example/"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "webhook")
    assert "webhook" in answer.json()["detail"]
