"""Jobs over a socket: accepted, drawn, told, canceled, kept and forgotten."""

import asyncio
import contextlib
import hashlib
import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from server.job_schemas import JobRequest
from server.journal import JobRecord, Journal
from server.live import LiveJob
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7}


def done(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()


def events_of(client: httpx.Client, job: dict[str, Any], after: int = 0) -> list[tuple]:
    headers = {"Last-Event-ID": str(after)}
    text = client.get(f"/v1/jobs/{job['id']}/events", headers=headers).text
    blocks = [dict(line.split(": ", 1) for line in b.split("\n")) for b in text.split("\n\n") if b]
    return [(int(b["id"]), b["event"], json.loads(b["data"])) for b in blocks]


@pytest.fixture
def jobs(serve: Callable[..., httpx.Client], tmp_path: Path) -> Callable[..., httpx.Client]:
    """`jobs()` starts a server with a state folder."""
    return lambda **settings: serve(state=tmp_path / "state", **settings)


@pytest.fixture(scope="module")
def drawing(
    pipeline: Any, tmp_path_factory: pytest.TempPathFactory, serving: Any
) -> Iterator[httpx.Client]:
    """One server with jobs for every test that only asks."""
    with serving(Settings(state=tmp_path_factory.mktemp("jobs")), pipeline) as client:
        yield client


def test_job_draws_what_generate_draws(drawing: httpx.Client) -> None:
    accepted = drawing.post("/v1/jobs", json=BODY)
    job = done(drawing, accepted.json())
    picture = job["result"]["data"][0]
    file = drawing.get(picture["url"])
    pixels = np.asarray(Image.open(io.BytesIO(file.content)))
    wanted = drawing.post("/generate", json=BODY).json()["data"][0]["pixel_sha256"]
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["status"] == "succeeded"
    assert wanted == picture["pixel_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert file.headers["content-type"] == "image/png"


def test_seed_is_fixed_when_the_job_is_accepted(drawing: httpx.Client) -> None:
    accepted = drawing.post("/v1/jobs", json={"prompt": "老虎"}).json()
    job = done(drawing, accepted)
    assert job["seed"] == accepted["seed"] == job["result"]["data"][0]["seed"]


def test_events_rise_and_are_replayed_from_any_point(jobs: Any, gate: Any) -> None:
    client = jobs()
    job = client.post("/v1/jobs", json=BODY | {"num_inference_steps": 3}).json()
    gate.open.set()
    live = events_of(client, job)
    numbers = [number for number, _, _ in live]
    names = [name for _, name, _ in live]
    assert names == ["queued", "started", *["progress"] * 3, "image_generation.completed"]
    assert numbers == sorted(set(numbers))
    assert live[-1][2]["result"] == done(client, job)["result"]
    assert events_of(client, job, after=numbers[-2]) == live[-1:]
    assert events_of(client, job, after=numbers[-1]) == []


def test_slow_listener_misses_nothing() -> None:
    async def listen() -> list[str]:
        record = JobRecord(1, "a", "", None, "", {}, 1, 0, "queued", 0, 1, *[None] * 5, 0)
        live, heard = LiveJob(record, JobRequest(prompt="老虎")), []
        async for event in live.listen(0):
            heard.append(event.name)
            if len(heard) == 1:
                live.publish("started", {})
            elif len(heard) == 2:
                live.publish("progress", {})
                live.end(replace(record, status="canceled"))
        return heard

    assert asyncio.run(listen()) == ["queued", "started", "progress", "error"]


def test_idempotency_key_is_one_job(drawing: httpx.Client) -> None:
    key = {"Idempotency-Key": "order-17"}
    first = drawing.post("/v1/jobs", json={"prompt": "猫"}, headers=key).json()
    again = drawing.post("/v1/jobs", json={"prompt": "猫"}, headers=key).json()
    other = drawing.post("/v1/jobs", json={"prompt": "老虎"}, headers=key)
    assert (first["id"], first["seed"]) == (again["id"], again["seed"])
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_list_has_pages(drawing: httpx.Client) -> None:
    made = [drawing.post("/v1/jobs", json=BODY).json()["id"] for _ in range(3)]
    first = drawing.get("/v1/jobs", params={"limit": 2}).json()
    second = drawing.get("/v1/jobs", params={"limit": 2, "after": made[1]}).json()
    assert [job["id"] for job in first["data"]] == [made[2], made[1]]
    assert first["has_more"] is True
    assert second["data"][0]["id"] == made[0]


def test_waiting_and_running_jobs_are_canceled(jobs: Any, gate: Any) -> None:
    client = jobs()
    made = [client.post("/v1/jobs", json=BODY | {"seed": n}).json() for n in range(4)]
    assert gate.entered.wait(60)
    waiting = client.post(f"/v1/jobs/{made[3]['id']}/cancel").json()
    gate.open.set()
    client.post(f"/v1/jobs/{made[0]['id']}/cancel")
    ends = [done(client, job)["status"] for job in made]
    assert (waiting["status"], ends[1:]) == ("canceled", ["succeeded", "succeeded", "canceled"])
    assert ends[0] in ("canceled", "succeeded")
    assert len(gate.runs) == 3
    again = client.post(f"/v1/jobs/{made[3]['id']}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "job_over")
    assert events_of(client, made[3])[-1][1:] == (
        "error",
        {"id": made[3]["id"], "status": "canceled", "error": None},
    )


def test_higher_priority_goes_first(jobs: Any, gate: Any) -> None:
    client = jobs()
    made = [
        client.post("/v1/jobs", json=BODY | {"seed": n, "priority": n}).json() for n in range(5)
    ]
    assert gate.entered.wait(60)
    gate.open.set()
    for job in made:
        done(client, job)
    assert [run["seed"] for run in gate.runs][-2:] == [3, 2]


def test_job_that_waits_past_its_deadline_expires(jobs: Any, gate: Any) -> None:
    client = jobs()
    for _ in range(2):
        client.post("/v1/jobs", json=BODY)
    late = client.post("/v1/jobs", json=BODY | {"deadline_ms": 20}).json()
    assert done(client, late)["status"] == "expired"
    gate.open.set()


def test_jobs_wait_for_the_next_server_and_keep_their_pixels(
    serving: Any, gate: Any, tmp_path: Path
) -> None:
    settings = Settings(state=tmp_path / "state", drain_seconds=0)
    with serving(settings, gate) as client:
        wanted = [client.post("/v1/jobs", json={"prompt": "老虎"}).json() for _ in range(4)]
        assert gate.entered.wait(60)
        gate.failure = None
        gate.open.set()
    gate.open.set()
    with serving(settings, gate) as client:
        ends = [done(client, job) for job in wanted]
        fresh = [
            client.post("/generate", json={"prompt": "老虎", "seed": job["seed"]}).json()
            for job in wanted
        ]
    assert [end["status"] for end in ends] == ["succeeded"] * 4
    for end, again in zip(ends, fresh, strict=True):
        assert end["result"]["data"][0]["pixel_sha256"] == again["data"][0]["pixel_sha256"]


def test_failed_job_says_why_and_its_seed_draws_on(jobs: Any, gate: Any) -> None:
    gate.failure = MemoryError()
    client = jobs()
    job = done(client, client.post("/v1/jobs", json=BODY).json())
    assert (job["status"], job["error"]["code"]) == ("failed", "out_of_device_memory")
    assert client.get(f"/v1/jobs/{job['id']}/images/0").status_code == 404


def test_forgotten_job_is_410_and_its_files_are_gone(
    serving: Any, pipeline: Any, tmp_path: Path
) -> None:
    settings = Settings(state=tmp_path / "state")
    with serving(settings, pipeline) as client:
        job = done(client, client.post("/v1/jobs", json=BODY).json())
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "journal.sqlite3")) as database:
        database.execute("UPDATE jobs SET finished = 0")
        database.commit()
    with serving(settings, pipeline) as client:
        while (answer := client.get(f"/v1/jobs/{job['id']}")).status_code == 200:
            pass
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "job_expired")
        assert client.get(job["result"]["data"][0]["url"]).status_code == 410
    assert list((tmp_path / "state" / "results").iterdir()) == []


def test_full_queue_and_full_folder_are_refused_with_retry_after(
    jobs: Any, gate: Any, survived: Any
) -> None:
    client = jobs(job_limit=1, state_quota_bytes=2**20)
    answers = [client.post("/v1/jobs", json=BODY) for _ in range(6)]
    refused = [a for a in answers if a.status_code != 202]
    gate.open.set()
    assert {a.json()["error"]["code"] for a in refused} == {"overloaded"}
    assert all(int(a.headers["retry-after"]) >= 1 for a in refused)
    large = client.post("/v1/jobs", json=BODY | {"num_images_per_prompt": 8})
    codes = {large.status_code}
    while large.status_code == 202:
        large = client.post("/v1/jobs", json=BODY | {"num_images_per_prompt": 8})
        codes.add(large.status_code)
    assert codes <= {202, 503}
    survived(client, 'admission_rejected_total{reason="overloaded"}')


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"priority": 11}, "priority"),
        ({"webhook": "http://x"}, "webhook"),
        ({"response_format": "binary"}, "response_format"),
        ({"seed": 2**53 - 1, "num_images_per_prompt": 2}, "seed"),
        ({"wiht": 64}, "wiht"),
        ({"upscale": 3}, "upscale"),
    ],
)
def test_wrong_jobs_are_refused_by_name(
    drawing: httpx.Client, change: dict[str, Any], param: str
) -> None:
    answer = drawing.post("/v1/jobs", json=BODY | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/job_x", "/v1/jobs/..%2f..%2fetc", "/v1/jobs/job_x/images/0", "/v1/jobs?after=x"],
)
def test_unknown_jobs_are_404(drawing: httpx.Client, path: str) -> None:
    answer = drawing.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("job_not_found", "not_found")


@pytest.mark.parametrize("query", ["wait=-1", "wait=61", "wait=x"])
def test_wrong_wait_is_422(drawing: httpx.Client, query: str) -> None:
    job = drawing.post("/v1/jobs", json=BODY).json()
    answer = drawing.get(f"/v1/jobs/{job['id']}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "wait")


def test_without_a_state_folder_there_are_no_jobs(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "jobs_off")


def test_locked_journal_refuses_new_jobs_and_loses_no_result(
    jobs: Any, gate: Any, survived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = jobs()
    job = client.post("/v1/jobs", json=BODY).json()
    assert gate.entered.wait(60)
    honest = Journal._transaction

    def locked(journal: Journal) -> Any:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Journal, "_transaction", locked)
    refused = client.post("/v1/jobs", json=BODY)
    gate.open.set()
    time.sleep(0.5)
    monkeypatch.setattr(Journal, "_transaction", honest)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
    assert done(client, job)["status"] == "succeeded"
    survived(client, 'admission_rejected_total{reason="storage_unavailable"}')


def test_full_disk_fails_the_job_and_leaves_nothing_half_written(
    jobs: Any, gate: Any, survived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.results.write_flushed", full)
    gate.open.set()
    client = jobs()
    job = done(client, client.post("/v1/jobs", json=BODY).json())
    assert (job["status"], job["error"]["code"]) == ("failed", "storage_unavailable")
    survived(client, 'jobs_total{status="failed"}')
    assert list((tmp_path / "state" / "results").iterdir()) == []
