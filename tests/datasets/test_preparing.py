"""A prepared folder: whole or not at all."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from rapid_diffusion.cli import run
from rapid_diffusion.datasets.growing import GrowingArray
from rapid_diffusion.datasets.preparing import PrepareOptions, prepare
from rapid_diffusion.datasets.rows import Row
from rapid_diffusion.errors import InvalidRequestError, OutputError
from rapid_diffusion.testing import build_micro_graph

from .conftest import picture

SIZES = {"size": 16, "large_size": 32}


def rows(count, **facts):
    return (Row(picture(n), (f"第{n}只猫",), dict(facts), f"row {n}") for n in range(count))


def metadata(out):
    lines = (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_growing_array_is_what_numpy_writes(tmp_path):
    wanted = np.random.default_rng(0).integers(0, 256, (1234, 2, 3), np.uint8)
    array = GrowingArray(tmp_path / "a.npy", (2, 3))
    for row in wanted:
        array.append(row)
    array.finish()
    np.save(tmp_path / "b.npy", wanted)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_held_out_rows_are_the_same_each_time_and_doubles_stay_together(tmp_path):
    options = PrepareOptions(**SIZES, held_out=0.3)
    splits = []
    for name in "ab":
        prepare([*rows(60), *rows(60)], tmp_path / name, options)
        splits.append([row["split"] for row in metadata(tmp_path / name)])
    assert splits[0] == splits[1]
    assert splits[0][:60] == splits[0][60:]
    assert 5 <= splits[0][:60].count("held_out") <= 30


@pytest.mark.parametrize(("said", "split"), [("train", "train"), ("validation", "held_out")])
def test_a_split_that_the_row_names_is_kept(tmp_path, said, split):
    items = [*rows(3, split=said), *rows(1, split="train")]
    prepare(items, tmp_path / "out", PrepareOptions(**SIZES, held_out=0.9))
    assert [row["split"] for row in metadata(tmp_path / "out")] == [split] * 3 + ["train"]


def test_an_entity_that_the_graph_has_not_is_refused(tmp_path):
    graph = build_micro_graph(tmp_path / "graph").path
    items = [*rows(2, entity="老虎"), *rows(1, entity="龙"), *rows(1, entity=[1])]
    options = PrepareOptions(**SIZES, held_out=0, graph=graph)
    done = prepare(items, tmp_path / "out", options)
    assert (done.train, done.refused) == (2, 2)
    assert "not in the graph" in (tmp_path / "out" / "refused.jsonl").read_text()


def test_nothing_is_left_of_a_run_that_failed(tmp_path):
    def failing():
        yield from rows(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(failing(), tmp_path / "out", PrepareOptions(**SIZES))
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_all_broken_say_why(tmp_path):
    broken = [Row(b"", ("猫",), {}, "row 0")]
    with pytest.raises(InvalidRequestError, match=r"no sound row.*row 0: the picture is empty"):
        prepare(broken, tmp_path / "out", PrepareOptions(**SIZES))
    assert list(tmp_path.iterdir()) == []


def _prepare_for_ever(out):
    def slow():
        for row in rows(10**9):
            time.sleep(0.01)
            yield row

    prepare(slow(), out, PrepareOptions(**SIZES))


def test_a_run_that_was_killed_leaves_nothing_that_stops_the_next(tmp_path):
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=_prepare_for_ever, args=(out,))
    process.start()
    partial = tmp_path / ".out.preparing"
    while not (partial / "refused.jsonl").exists():
        time.sleep(0.01)
    with pytest.raises(OutputError, match="another"):
        prepare(rows(3), out, PrepareOptions(**SIZES))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not out.exists()
    assert partial.exists()
    prepare(rows(3), out, PrepareOptions(**SIZES, held_out=0))
    assert len(metadata(out)) == len(np.load(out / "pictures_32.npy")) == 3
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InvalidRequestError, match="exists"):
        prepare(rows(3), tmp_path / "out", PrepareOptions(**SIZES))
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "options", [{"size": 4}, {"large_size": 100}, {"large_size": 32}, {"held_out": 1.0}]
)
def test_options_that_do_not_fit_are_named(options):
    with pytest.raises(InvalidRequestError, match=next(iter(options)).removeprefix("large_")):
        PrepareOptions(**options)


def test_the_command_builds_the_graph_from_triples(damaged_folder, tmp_path, capsys):
    facts = {"subject": "老虎", "data": [{"predicate": "属于", "object": "动物"}]}
    (tmp_path / "facts.jsonl").write_text(json.dumps(facts) + "\n")
    out = tmp_path / "out"
    sizes = ["--size", "16", "--large-size", "32", "--triples", str(tmp_path / "facts.jsonl")]
    assert run(["data", "prepare", str(damaged_folder), "--out", str(out), *sizes]) == 0
    text = capsys.readouterr().out
    assert "20 rows refused" in text
    assert "no graph" not in text
    from knowledge.graph import KnowledgeGraph

    assert KnowledgeGraph.open(out / "graph").link("一只老虎")[0].key == "老虎"
