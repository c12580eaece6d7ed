"""What is written down stays written down, and damage is set aside."""

import threading
from pathlib import Path
from typing import Any

import pytest

from rapid_diffusion.errors import InvalidRequestError
from server.journal import Journal, NewJob
from server.results import ResultStore, lock_state
from server.settings import Settings


def new(name: str, **changes: Any) -> NewJob:
    facts: dict[str, Any] = {
        "id": name,
        "owner": "",
        "idempotency_key": None,
        "request_sha256": "0",
        "request": {"prompt": "老虎"},
        "seed": 2**53 - 1,
        "priority": 0,
        "reserved": 100,
    }
    return NewJob(**facts | changes)


def test_accepted_job_is_there_after_an_unclean_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.accept(new("a"))
    first.start(first.accept(new("b")).id, 1001)
    second = Journal(path)  # while the first still holds the file, as a kill would leave it
    taken = second.take_up()
    first.close()
    second.close()
    assert [(r.id, r.status, r.attempts, r.seed) for r in taken] == [
        ("a", "queued", 0, 2**53 - 1),
        ("b", "queued", 1, 2**53 - 1),
    ]


def test_one_idempotency_key_is_one_job_for_each_owner(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    names = [
        journal.accept(new(name, owner=owner, idempotency_key="k")).id
        for name, owner in (("a", "x"), ("b", "x"), ("c", "y"))
    ]
    journal.close()
    assert names == ["a", "a", "c"]


@pytest.mark.parametrize("damage", ["head", "middle", "empty pages"])
def test_damaged_journal_is_set_aside_and_nothing_is_deleted(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in range(200):
        journal.accept(new(f"job{number}"))
    journal.close()
    content = bytearray(path.read_bytes())
    start = {"head": 0, "middle": 8192, "empty pages": 4096}[damage]
    content[start : start + 4096] = b"\0" * 4096 if damage == "empty pages" else b"\xab" * 4096
    path.write_bytes(content)
    fresh = Journal(path)
    assert fresh.take_up() == []
    assert fresh.set_aside is not None
    assert fresh.set_aside.read_bytes() == content
    assert fresh.accept(new("a")).status == "queued"
    fresh.close()


def test_server_over_a_damaged_journal_counts_it_and_draws(
    tmp_path: Path, serving: Any, pipeline: Any, survived: Any
) -> None:
    (tmp_path / "journal.sqlite3").write_bytes(b"\xab" * 8192)
    with serving(Settings(state=tmp_path), pipeline) as client:
        survived(client, "journals_set_aside_total")
        job = client.post("/v1/jobs", json={"prompt": "老虎"}).json()
        done = client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()
    assert done["status"] == "succeeded"


def test_journal_of_a_later_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal._database.execute("PRAGMA user_version = 2")
    journal.close()
    with pytest.raises(InvalidRequestError, match="version 2"):
        Journal(path)
    assert list(tmp_path.glob("*damaged*")) == []


def test_forgotten_jobs_lose_their_prompts_and_keep_their_names(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    ended = journal.finish(journal.accept(new("a")).id, "succeeded", 5, {"data": []}, 70)
    journal.accept(new("b"))
    assert journal.bytes_held() == 170
    assert journal.forget(ended.finished + 1) == ["a"]
    record = journal.get("a")
    assert (record.is_forgotten, record.request, record.result) == (True, {}, None)
    assert (journal.bytes_held(), journal.forget(2**40)) == (100, [])
    journal.close()


def test_many_threads_write_one_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")

    def write(thread: int) -> None:
        for number in range(10):
            journal.accept(new(f"{thread}-{number}"))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.recent("", None, 100)) == 40
    journal.close()


def test_results_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    with pytest.raises(TypeError):
        store.write("a", {"0.png": b"good", "1.png": None})  # type: ignore[dict-item]
    assert list((tmp_path / "results").iterdir()) == []
    assert store.write("a", {"0.png": b"old"}) == 3
    assert store.write("a", {"0.png": b"new!"}) == 4
    assert store.find("a", "0.png").read_bytes() == b"new!"
    store.remove(["a", "never"])
    assert store.find("a", "0.png") is None


def test_a_state_folder_has_one_server(tmp_path: Path) -> None:
    held = lock_state(tmp_path / "state")
    with pytest.raises(InvalidRequestError, match="another server"):
        lock_state(tmp_path / "state")
    held.close()
    lock_state(tmp_path / "state").close()


def test_job_that_two_hundred_kills_interrupted_is_drawn_all_the_same(
    serving: Any, pipeline: Any, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.accept(new("job_a", owner="", request={"prompt": "老虎"}, seed=7))
    with journal.transaction() as database:
        database.execute("UPDATE jobs SET status = 'running', attempts = 200, last_event = 200001")
    journal.close()
    with serving(Settings(state=tmp_path), pipeline) as client:
        job = client.get("/v1/jobs/job_a?wait=60").json()
    assert (job["status"], job["attempts"]) == ("succeeded", 201)
