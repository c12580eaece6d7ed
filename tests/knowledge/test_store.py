"""Exchanging the graph under load, and refusing a bad one."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from knowledge.builder import build_version
from knowledge.errors import (
    DamagedVersionError,
    IncompatibleVersionError,
    MissingVersionError,
    VersionError,
)
from knowledge.store import GraphStore, warm_up
from knowledge.versions import activate


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, list[str]]:
    """A store with two versions; the second, with one entity more, is active."""
    first = build_version([("老虎", "属于", "猫科")], [], tmp_path)
    second = build_version([("老虎", "属于", "猫科"), ("狮子", "属于", "猫科")], [], tmp_path)
    return tmp_path, [first.name, second.name]


def test_fifty_swaps_under_a_linking_thread_fail_no_look_up(two: tuple[Path, list[str]]) -> None:
    path, versions = two
    store, stop = GraphStore(path), threading.Event()
    wrong: list[object] = []
    looked_up = 0

    def read() -> None:
        nonlocal looked_up
        while not stop.is_set():
            graph = store.graph
            try:
                names = [graph.neighbours(link.entity)[0].text for link in graph.link("画老虎")]
            except BaseException as error:  # noqa: BLE001
                wrong.append(error)
                return
            looked_up += 1
            if names != ["猫科"]:
                wrong.append(names)

    thread = threading.Thread(target=read)
    thread.start()
    seen = []
    for number in range(50):
        activate(path, versions[number % 2])
        seen.append(store.reload())
    stop.set()
    thread.join()
    assert seen == [versions[number % 2] for number in range(50)]
    assert wrong == []
    assert looked_up > 0


def test_a_request_keeps_the_version_that_it_began_with(two: tuple[Path, list[str]]) -> None:
    path, versions = two
    store = GraphStore(path)
    pinned = store.graph
    activate(path, versions[0])
    store.reload()
    assert [link.key for link in pinned.link("狮子")] == ["狮子"]
    assert store.graph.link("狮子") == []


def _truncate(version: Path) -> None:
    damaged = (version / "tri_obj.npy").read_bytes()[:-1]
    (version / "tri_obj.npy").unlink()  # the mapped file itself must stay whole
    (version / "tri_obj.npy").write_bytes(damaged)


def _flip(version: Path) -> None:
    data = bytearray((version / "names.marisa").read_bytes())
    data[len(data) // 2] ^= 1
    (version / "names.marisa").unlink()
    (version / "names.marisa").write_bytes(data)


def _remove(version: Path) -> None:
    (version / "cand_id.npy").unlink()


def _half_written(version: Path) -> None:
    (version / "manifest.json").unlink()


def _other_name(version: Path) -> None:
    other = version.parent / ("0" * 16)
    shutil.copytree(version, other)
    (version.parent / "CURRENT").write_text(other.name, "utf-8")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_truncate, DamagedVersionError),
        (_flip, DamagedVersionError),
        (_remove, DamagedVersionError),
        (_half_written, MissingVersionError),
        (_other_name, IncompatibleVersionError),
    ],
)
def test_a_damaged_version_is_refused_and_the_old_one_keeps_serving(
    two: tuple[Path, list[str]], damage: object, error: type[VersionError]
) -> None:
    path, versions = two
    activate(path, versions[0])
    store = GraphStore(path)
    activate(path, versions[1])
    assert callable(damage)
    damage(path / versions[1])
    with pytest.raises(error):
        store.reload()
    assert store.graph.version == versions[0]
    assert [link.key for link in store.graph.link("老虎")] == ["老虎"]


# A process of its own, since this one may have threads and must not fork.
KILLED_BUILDS = """
import os, random, signal, sys, time
from pathlib import Path
from knowledge.builder import build_from_file, build_version
from knowledge.store import GraphStore
path, chance, killed = Path(sys.argv[1]), random.Random(0), 0
facts = [(f"名{number}", "属于", f"类{number % 7}") for number in range(2000)]
file = path / "facts.csv"
file.write_text("实体,属性,值\\n" + "".join(",".join(fact) + "\\n" for fact in facts), "utf-8")
for number in range(20):
    child = os.fork()
    if child == 0:
        build_from_file(file, "ownthink", path) if number % 2 else build_version(facts, [], path)
        os._exit(0)
    time.sleep(chance.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    GraphStore(path, verify="full")
assert build_from_file(file, "ownthink", path) == build_version(facts, [], path)
print(killed)
"""


def test_a_build_killed_at_any_moment_leaves_current_whole_and_can_be_run_again(
    two: tuple[Path, list[str]],
) -> None:
    command = [sys.executable, "-c", KILLED_BUILDS, str(two[0])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) > 0
    assert len(GraphStore(two[0], verify="full").graph) == 2007


def test_warming_reads_every_byte(two: tuple[Path, list[str]]) -> None:
    version = two[0] / two[1][1]
    assert warm_up(version) == sum(path.stat().st_size for path in version.iterdir())
