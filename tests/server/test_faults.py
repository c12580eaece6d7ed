"""Faults of the device, the graph, the disk and the clock: a status, a metric, and life goes on.

docs/results/faults.md lists every fault that is injected, here and elsewhere.
"""

import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import InvalidRequestError, NumericalError, RapidDiffusionError
from server import journal as journal_module
from server.journal import Journal
from server.main import run
from server.process import Patience, RemoteDevice
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7}


def counted(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next((line.split()[-1] for line in lines if line.startswith(name)), 0.0))


def done(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()


@pytest.fixture
def jobs(serve: Callable[..., httpx.Client], tmp_path: Path) -> Callable[..., httpx.Client]:
    return lambda **settings: serve(state=tmp_path / "state", **settings)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (torch.OutOfMemoryError("80 GiB asked"), 503, "out_of_device_memory"),
        (MemoryError(), 503, "out_of_device_memory"),
        (NumericalError("NaN"), 500, "internal"),
        (RuntimeError("CUDA error: device-side assert"), 500, "internal"),
        (OSError(5, "Input/output error"), 500, "internal"),
        (RecursionError("deep"), 500, "internal"),
        (InvalidRequestError("knowledge", "no such entity"), 422, "invalid_parameter"),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else str(value),
)
def test_what_the_device_raises_is_told_counted_and_over(
    serve: Any, gate: Any, survived: Any, failure: Exception, status: int, code: str
) -> None:
    gate.open.set()
    client = serve()
    gate.failure = failure
    answer = client.post("/generate", json=BODY)
    gate.failure = None
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    survived(client, f'requests_total{{status="{status}"}}')
    assert counted(client, "t2i_requests_running") == 0


def test_weights_that_turn_nan_are_never_a_picture(
    serving: Any, survived: Any, micro_model_folder: Path
) -> None:
    own = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    weights = next(own.model.denoiser.parameters())
    sound = weights.detach().clone()
    with serving(Settings(), own) as client:
        with torch.no_grad():
            weights.fill_(float("nan"))
        answer = client.post("/generate", json=BODY)
        with torch.no_grad():
            weights.copy_(sound)
        assert answer.status_code == 500
        survived(client, 'requests_total{status="500"}')


def test_graph_that_cannot_be_read_fails_those_who_ask_it(
    serve: Any, gate: Any, survived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    gate.open.set()
    client = serve()
    monkeypatch.setattr("knowledge.graph.KnowledgeGraph.link", damaged)
    asked = client.post("/generate", json=BODY)
    without = client.post("/generate", json=BODY | {"entities": "off"})
    monkeypatch.undo()
    assert (asked.status_code, without.status_code) == (500, 200)
    survived(client, 'requests_total{status="500"}')


@pytest.mark.parametrize("pattern", ["unet/*.safetensors", "knowledge/**/*", "model_index.json"])
def test_damaged_model_folder_is_told_before_anything_listens(
    micro_model_folder: Path, tmp_path: Path, pattern: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(micro_model_folder, folder)
    files = [path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size > 64]
    assert files, f"no file is called {pattern}: {sorted(folder.rglob('*'))}"
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:50])
    with pytest.raises(RapidDiffusionError, match=str(tmp_path)):
        run(Settings(model=str(folder), worker_process=False, port=0))


def test_worker_that_cannot_load_is_tried_again_and_counted(
    pipeline: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def spawn(_device: RemoteDevice) -> Any:
        tries.append("try")
        raise RapidDiffusionError("the model folder is gone")

    monkeypatch.setattr(RemoteDevice, "_spawn", spawn)
    losses: list[str] = []
    device = RemoteDevice(lambda: pipeline, Patience())
    device.on_loss = losses.append
    device._thread.start()
    while len(tries) < 2:
        time.sleep(0.01)
    device.close()
    assert set(losses) == {"unloadable"}
    assert not device.is_ready


def test_full_disk_refuses_jobs_and_takes_them_again_when_there_is_room(
    jobs: Any, gate: Any, survived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, opened = journal_module._open, []

    def small(path: Path) -> sqlite3.Connection:
        opened.append(honest(path))
        return opened[-1]

    monkeypatch.setattr(journal_module, "_open", small)
    gate.open.set()
    client = jobs()
    pages = opened[0].execute("PRAGMA page_count").fetchone()[0]
    opened[0].execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
    long = BODY | {"negative_prompt": "虎" * 2000}
    answers = [client.post("/v1/jobs", json=long) for _ in range(4)]
    refused = [a for a in answers if a.status_code != 202]
    opened[0].execute("PRAGMA max_page_count = 100000")
    assert {a.json()["error"]["code"] for a in refused} == {"storage_unavailable"}
    assert all(int(a.headers["retry-after"]) >= 1 for a in refused)
    survived(client, 'admission_rejected_total{reason="storage_unavailable"}')
    again = client.post("/v1/jobs", json=BODY)
    assert (again.status_code, done(client, again.json())["status"]) == (202, "succeeded")


def test_journal_that_does_not_answer_is_503_and_drawing_goes_on(
    jobs: Any, gate: Any, survived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.open.set()
    client = jobs()
    job = done(client, client.post("/v1/jobs", json=BODY).json())
    paths = [f"/v1/jobs/{job['id']}{rest}" for rest in ("", "/events", "/images/0")] + ["/v1/jobs"]

    def locked(_journal: Journal) -> Any:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_transaction", locked)
        answers = [client.get(path) for path in paths]
        drawn = client.post("/generate", json=BODY)
    assert [a.status_code for a in answers] == [503] * 4
    assert {a.json()["error"]["code"] for a in answers} == {"storage_unavailable"}
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers)
    assert drawn.status_code == 200
    survived(client, 'requests_total{status="503"}')
    assert [client.get(path).status_code for path in paths] == [200] * 4


def test_state_folder_that_cannot_be_written_is_told_at_the_start(
    micro_pipeline: Any, tmp_path: Path
) -> None:
    (tmp_path / "journal.sqlite3").mkdir()
    with pytest.raises(InvalidRequestError, match="state"):
        Journal(tmp_path / "journal.sqlite3")


def test_result_that_somebody_removed_is_404_and_the_job_is_still_told(
    jobs: Any, gate: Any, survived: Any, tmp_path: Path
) -> None:
    gate.open.set()
    client = jobs()
    job = done(client, client.post("/v1/jobs", json=BODY).json())
    shutil.rmtree(tmp_path / "state" / "results" / job["id"])
    image = client.get(job["result"]["data"][0]["url"])
    assert (image.status_code, image.json()["error"]["code"]) == (404, "not_found")
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
    survived(client, 'requests_total{status="404"}')


@pytest.mark.parametrize("jump", [-86_400.0, 3600.0])
def test_clock_that_jumps_neither_expires_nor_stops_what_is_drawn(
    jobs: Any, gate: Any, survived: Any, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    client, honest = jobs(), time.time
    before = client.post("/v1/jobs", json=BODY | {"deadline_ms": 600_000}).json()
    assert gate.entered.wait(60)
    monkeypatch.setattr("time.time", lambda: honest() + jump)
    gate.open.set()
    drawn = client.post("/generate", json=BODY | {"deadline_ms": 60_000})
    after = client.post("/v1/jobs", json=BODY | {"deadline_ms": 600_000}).json()
    assert [done(client, job)["status"] for job in (before, after)] == ["succeeded"] * 2
    assert drawn.status_code == 200
    assert min(drawn.json()["timings_ms"].values()) >= 0
    survived(client, 'jobs_total{status="succeeded"}')


def test_every_fault_of_the_table_has_its_test() -> None:
    table = Path(__file__).parents[2] / "docs" / "results" / "faults.md"
    named = set(re.findall(r"`(test_\w+)`", table.read_text(encoding="utf-8")))
    sources = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    written = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)}
    assert len(named) >= 25
    assert named - written == set()
