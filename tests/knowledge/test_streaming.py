"""Large files: block by block comes to the same as all at once, also after a kill."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from knowledge import runs
from knowledge.builder import BuildOptions, build_from_file, build_version
from knowledge.errors import BuildError, FormatError
from knowledge.formats import read_facts
from knowledge.graph import KnowledgeGraph
from knowledge.splitting import whole_lines
from knowledge.store import GraphStore

SUBJECTS = BuildOptions(objects="subjects")


def write_csv(path: Path, count: int = 500) -> Path:
    """Rows of every kind, in no order: facts, aliases, senses, weights, traps."""
    chance = random.Random(0)
    rows = []
    for number in range(count):
        name = f"实体{chance.randrange(400)}" + chance.choice(["", "", "[义]", " x"])
        rows.append(f"{name},关系{chance.randrange(9)},实体{chance.randrange(600)}")
        rows.append(f"{name},别名,Ａ名{chance.randrange(200)}")
        rows.append(f"歧{number % 90},歧义关系,{name}")
        rows.append(f"{name},歧义权重,{chance.randrange(1, 50)}")
        rows.append(f'{name},描述,"长{"文" * (number % 300)},\n与{number}"')
        rows.append(chance.choice(["坏,行", "空,,", f"{name},定义,\u3000两  边 ", f"{name},\0,x"]))
    chance.shuffle(rows)
    path.write_text("实体,属性,值\n" + "\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 20 kB instead of 16 MB, and merging with a few hundred rows in memory."""
    monkeypatch.setattr("knowledge.formats.whole_lines", lambda file: whole_lines(file, 20_000))
    monkeypatch.setattr(runs, "_MOST_ROWS", 500)
    monkeypatch.setattr(runs, "_MOST_BYTES", 20_000)


def test_a_file_in_blocks_gives_the_version_of_its_facts_at_once(
    tmp_path: Path, small_blocks: None
) -> None:
    path = write_csv(tmp_path / "facts.csv")
    facts = read_facts(path, "ownthink")
    lines = path.read_text("utf-8").splitlines(keepends=True)
    once = build_version(facts.triples, facts.aliases, tmp_path / "once", options=SUBJECTS)
    blocks = build_from_file(path, "ownthink", tmp_path / "blocks", options=SUBJECTS)
    for file in once.iterdir():
        assert (
            file.name == "manifest.json" or file.read_bytes() == (blocks / file.name).read_bytes()
        )
    assert KnowledgeGraph.open(blocks).stats["refused"] == dict(sorted(facts.skipped.items()))
    assert len(lines) > 3000 / 2


# A process of its own, in the same small blocks, that dies at a stage and a part of it.
KILLED_BUILD = """
import os, signal, sys
from knowledge import builder, formats, runs
from knowledge.splitting import whole_lines
formats.whole_lines = lambda file: whole_lines(file, 20_000)
runs._MOST_ROWS, runs._MOST_BYTES = 500, 20_000
path, store, wanted, least = sys.argv[1:]
def progress(stage, part):
    if stage == wanted and part >= float(least):
        os.kill(os.getpid(), signal.SIGKILL)
builder.build_from_file(path, "ownthink", store, progress=progress)
"""


def test_a_build_killed_between_any_two_blocks_goes_on_and_comes_to_the_same(
    tmp_path: Path, small_blocks: None
) -> None:
    path, store = write_csv(tmp_path / "facts.csv"), tmp_path / "store"
    whole = build_from_file(path, "ownthink", tmp_path / "other")
    old = build_version([("旧", "是", "图")], [], store)
    stages: list[str] = []
    for stage, part in (("read", "0.3"), ("read", "0.8"), ("merge", "0"), ("name", "1")):
        command = [sys.executable, "-c", KILLED_BUILD, str(path), str(store), stage, part]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert GraphStore(store, verify="full").graph.version == old.name
    version = build_from_file(
        path, "ownthink", store, progress=lambda stage, _: stages.append(stage)
    )
    assert version.name == whole.name
    assert "read" not in stages  # the killed builds had read everything
    names = {"CURRENT", old.name, version.name, f"{version.name}.refused.jsonl"}
    assert {entry.name for entry in store.iterdir()} == names


def test_the_first_refused_lines_of_each_reason_are_kept(
    tmp_path: Path, small_blocks: None
) -> None:
    path = write_csv(tmp_path / "facts.csv")
    version = build_from_file(path, "ownthink", tmp_path / "store")
    text = (tmp_path / "store" / f"{version.name}.refused.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    lines = path.read_text("utf-8").split("\n")
    assert {row["reason"] for row in rows} == set(KnowledgeGraph.open(version).stats["refused"])
    for row in rows:
        assert lines[row["line"] - 1].replace("\0", "").startswith(row["text"].split("\t")[0])


def test_a_changed_file_is_read_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("实体,属性,值\n甲,是,乙\n", "utf-8")
    first = build_from_file(path, "ownthink", tmp_path / "store")
    path.write_text("实体,属性,值\n甲,是,乙\n丙,是,丁\n", "utf-8")
    second = build_from_file(path, "ownthink", tmp_path / "store")
    assert (len(KnowledgeGraph.open(first)), len(KnowledgeGraph.open(second))) == (2, 4)


def test_two_builds_of_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "facts.csv", 20)
    refused: list[BuildError] = []

    def again(stage: str, part: float) -> None:
        if stage == "read":
            with pytest.raises(BuildError, match="another process builds the same") as error:
                build_from_file(path, "ownthink", tmp_path / "store")
            refused.append(error.value)

    build_from_file(path, "ownthink", tmp_path / "store", progress=again)
    assert len(refused) == 1


def test_a_refused_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("entity,relation,value\n", "utf-8")
    with pytest.raises(FormatError, match="header"):
        build_from_file(tmp_path / "facts.csv", "ownthink", tmp_path / "store")
    assert not (tmp_path / "store").exists()
