"""Queue, cancel, crash and shutdown, with the pipeline held at a gate."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import NumericalError
from rapid_diffusion.precision import wants_float32
from server.device import LocalDevice, WorkRequest
from server.metrics import Metrics
from server.settings import Settings
from server.worker import Failed, Started, Succeeded, Worker

BODY = {"prompt": "老虎", "seed": 1}
LONG = {"num_inference_steps": 50}


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.002)
    raise AssertionError("never happened")


def gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"t2i_{name}")))


def later(function: Callable[[], httpx.Response]) -> "Future[httpx.Response]":
    return ThreadPoolExecutor(1).submit(function)


def test_full_queue_is_503_with_retry_after(serve: Any, gate: Any, survived: Any) -> None:
    client = serve(queue_size=1)
    first = later(lambda: client.post("/generate", json=BODY))
    assert gate.entered.wait(60)
    second = later(lambda: client.post("/generate", json=BODY))
    wait_until(lambda: gauge(client, "requests_waiting") == 1)
    refused = client.post("/generate", json=BODY)
    gate.open.set()
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.json()["retry_after_ms"] > 0
    survived(client, 'admission_rejected_total{reason="overloaded"}')
    assert [first.result().status_code, second.result().status_code] == [200, 200]


def test_64_clients_at_once_get_pictures_or_503(serve: Any, gate: Any) -> None:
    gate.open.set()
    client = serve(queue_size=8)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: client.post("/generate", json=BODY), range(64)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    drawn = [answer for answer in answers if answer.status_code == 200]
    assert len(drawn) >= 9
    assert len({answer.json()["data"][0]["pixel_sha256"] for answer in drawn}) == 1
    assert all("retry-after" in a.headers for a in answers if a.status_code == 503)


def test_client_that_leaves_stops_its_run_within_a_step(
    serve: Any, gate: Any, survived: Any
) -> None:
    client = serve()
    asked = httpx.Request("POST", client.base_url.join("generate"), json=BODY | LONG)
    head = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
    with socket.create_connection((asked.url.host, asked.url.port)) as connection:
        connection.sendall(f"POST /generate HTTP/1.1\r\n{head}\r\n".encode() + asked.content)
        assert gate.entered.wait(60)
    wait_until(lambda: 't2i_requests_total{status="499"} 1.0' in opened(client, gate))
    assert gate.steps < 50
    survived(client, 'requests_total{status="499"}')


def opened(client: httpx.Client, gate: Any) -> str:
    """The metrics, once the server had time to notice who has left."""
    if gate.entered.wait(60) and not gate.open.is_set():
        time.sleep(0.1)
        gate.open.set()
    return client.get("/metrics").text


def test_client_that_leaves_the_queue_frees_its_place(serve: Any, gate: Any, survived: Any) -> None:
    client = serve(queue_size=1)
    first = later(lambda: client.post("/generate", json=BODY))
    assert gate.entered.wait(60)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/generate", json=BODY, timeout=0.2)
    wait_until(lambda: gauge(client, "requests_waiting") == 0)
    gate.open.set()
    assert first.result().status_code == 200
    assert len(gate.runs) == 1
    survived(client, 'requests_total{status="499"}')


def test_passed_deadline_is_408(serve: Any, gate: Any) -> None:
    client = serve()
    answer = client.post("/generate", json=BODY | {"deadline_ms": 50})
    gate.open.set()
    assert answer.status_code == 408
    assert client.post("/generate", json=BODY).status_code == 200


@pytest.mark.parametrize(
    "error", [NumericalError("NaN in the latents"), ZeroDivisionError("secret")]
)
def test_failed_run_is_500_with_the_id_only(
    serve: Any, gate: Any, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve()
    gate.failure = error
    answer = client.post("/generate", json=BODY, headers={"X-Request-Id": "id-1"})
    assert answer.status_code == 500
    assert answer.json()["instance"].endswith("id-1")
    assert str(error) not in answer.text
    assert "id-1" in caplog.text
    assert str(error) in caplog.text
    gate.failure = None
    gate.open.set()
    assert client.post("/generate", json=BODY).status_code == 200


def test_flat_picture_is_never_sent(serve: Any, gate: Any, survived: Any) -> None:
    client = serve()
    gate.open.set()
    gate.flat = True
    assert client.post("/generate", json=BODY).status_code == 500
    gate.flat = False
    survived(client, 'requests_total{status="500"}')


def test_flat_picture_gets_a_second_chance_in_float32(
    serving: Any, gated: Any, micro_model_folder: Any
) -> None:
    narrow = RapidDiffusionPipeline.from_pretrained(micro_model_folder, dtype=torch.bfloat16)
    gate = gated(narrow)
    gate.open.set()
    gate.flat = lambda: not wants_float32()
    with serving(Settings(), gate) as client:
        assert client.post("/generate", json=BODY).status_code == 200
    assert len(gate.runs) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_worker_is_not_ready_and_nobody_waits_for_it(serve: Any, gate: Any) -> None:
    client = serve()
    assert client.get("/readyz").status_code == 200
    gate.failure = KeyboardInterrupt()
    assert client.post("/generate", json=BODY).status_code == 500
    ready, refused = client.get("/readyz"), client.post("/generate", json=BODY)
    assert (ready.status_code, refused.status_code) == (503, 503)
    assert ready.json()["error"]["code"] == "not_ready"
    assert "retry-after" in ready.headers
    assert client.get("/livez").status_code == 200
    assert gauge(client, "ready") == 0
    assert 'rejected_total{reason="not_ready"} 1.0' in client.get("/metrics").text


def test_encoder_failure_is_500_with_the_id(
    serve: Any, gate: Any, survived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("server.answers.encode_image", explode)
    client = serve()
    gate.open.set()
    answer = client.post("/generate", json=BODY, headers={"X-Request-Id": "id-2"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "id-2")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    monkeypatch.undo()
    survived(client, 'requests_total{status="500"}')


def test_shutdown_finishes_what_was_accepted(pipeline: RapidDiffusionPipeline, gate: Any) -> None:
    async def drain() -> list[Any]:
        worker = Worker(LocalDevice(gate), 8, Metrics())
        worker.start()
        tickets = [worker.submit(request(str(number))) for number in range(3)]
        closing = threading.Thread(target=worker.close, args=(10,))
        closing.start()
        gate.open.set()
        ends = [[event async for event in worker.events(ticket)] for ticket in tickets]
        await asyncio.to_thread(closing.join)
        with pytest.raises(Exception, match="draining"):
            worker.submit(request("late"))
        return ends

    ends = asyncio.run(drain())
    assert all(isinstance(events[0], Started) for events in ends)
    assert all(isinstance(events[-1], Succeeded) for events in ends)


def test_shutdown_without_patience_gives_up_at_the_next_step(gate: Any) -> None:
    async def drain() -> list[Any]:
        worker = Worker(LocalDevice(gate), 8, Metrics())
        worker.start()
        tickets = [worker.submit(request(str(number))) for number in range(2)]
        assert await asyncio.to_thread(gate.entered.wait, 60)
        threading.Timer(0.1, gate.open.set).start()
        await asyncio.to_thread(worker.close, 0)
        return [[event async for event in worker.events(ticket)][-1] for ticket in tickets]

    assert all(isinstance(event, Failed) for event in asyncio.run(drain()))


def test_every_ticket_ends_once_whenever_it_is_canceled(gate: Any) -> None:
    async def storm() -> list[list[Any]]:
        worker = Worker(LocalDevice(gate), 200, Metrics())
        worker.start()
        gate.open.set()
        tickets = [worker.submit(request(str(number), steps=2)) for number in range(30)]
        for ticket in tickets[::3]:
            await asyncio.to_thread(worker.cancel, ticket)
            worker.cancel(ticket)
        ends = [[event async for event in worker.events(ticket)] for ticket in tickets]
        await asyncio.to_thread(worker.close, 10)
        assert all(ticket.outbox.empty() for ticket in tickets)
        return ends

    ends = asyncio.run(storm())
    last = [events[-1] for events in ends]
    assert all(isinstance(event, Succeeded) for index, event in enumerate(last) if index % 3)
    assert all(isinstance(event, Succeeded | Failed) for event in last)


def request(name: str, steps: int = 4) -> WorkRequest:
    return WorkRequest(name, "老虎", {"seed": 1, "num_inference_steps": steps})


def test_more_work_than_the_queue_may_hold_is_refused_with_the_wait(serve: Any, gate: Any) -> None:
    client = serve(queue_size=100, queue_seconds=2.5)
    first = later(lambda: client.post("/generate", json=BODY))
    assert gate.entered.wait(60)
    second = later(lambda: client.post("/generate", json=BODY))
    wait_until(lambda: gauge(client, "requests_waiting") == 1)
    refused = client.post("/generate", json=BODY)  # a guess of one second each
    gate.open.set()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert [first.result().status_code, second.result().status_code] == [200, 200]


def test_deadline_that_cannot_be_met_is_refused_at_once(serve: Any, gate: Any) -> None:
    client = serve()
    first = later(lambda: client.post("/generate", json=BODY))
    assert gate.entered.wait(60)
    refused = client.post("/generate", json=BODY | {"deadline_ms": 1500})
    gate.open.set()
    assert refused.json()["error"]["code"] == "overloaded"
    assert first.result().status_code == 200
