"""ImageFolder: twenty kinds of damage in a thousand rows, and the folder a training reads."""

import json
import os
import re

import numpy as np
import pytest

from rapid_diffusion.datasets.formats import open_rows
from rapid_diffusion.datasets.preparing import PrepareOptions, prepare
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.data import Examples

from .conftest import BROKEN_FILES, BROKEN_LINES, picture

REASONS = {
    "truncated-jpeg": "cannot be decoded",
    "truncated-png": "cannot be decoded",
    "zero-bytes": "0 bytes",
    "html": "HTML",
    "noise": "not a picture",
    "one-pixel": "1x1 pixels",
    "bomb": "60000x60000 pixels|cannot be decoded .*bomb",
    "floats": "floats",
    "no-frames": "cannot be decoded|not a picture",
    "missing-file": "no such file",
    "traversal": "leaves its folder",
    "broken-json": "broken JSON",
    "not-utf-8": "not UTF-8",
    "duplicate": "named before, in metadata.jsonl:1 0000.png",
    "no-name": "no `file_name`",
    "no-caption": "no caption",
    "blank-caption": "blank",
    "number-caption": "a int, 17",
    "half-caption": "surrogate",
    "list": "the JSON is a list",
}


@pytest.fixture(scope="module")
def prepared(damaged_folder, tmp_path_factory):
    """The damaged thousand, prepared; with what `prepare` said."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    build_micro_graph(out.with_name("graph"))
    options = PrepareOptions(16, 32, held_out=0.0, graph=out.with_name("graph"))
    return out, prepare(open_rows(str(damaged_folder)), out, options)


def test_twenty_kinds_of_damage_are_named_with_their_reason(prepared):
    out, done = prepared
    assert (done.train, done.held_out, done.refused) == (980, 0, 20)
    refused = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    for row, name in zip(refused, [*BROKEN_FILES, *BROKEN_LINES], strict=True):
        number = 50 * (1 + [*BROKEN_FILES, *BROKEN_LINES].index(name))
        assert row["where"].split()[0] == f"metadata.jsonl:{number}"
        assert re.search(REASONS[name], row["reason"]), (name, row)


def test_the_other_980_are_trained_on_each_once_a_pass(prepared):
    out, _ = prepared
    config = DataConfig(str(out), "pictures_16.npy", "pictures_32.npy")
    examples = Examples(config, max_length=12)
    shown = [i for step in range(98) for i in examples.indices(step, 10, 0)]
    assert sorted(row["number"] for row in (examples.rows[i] for i in shown)) == [
        number for number in range(1000) if number % 50 != 49
    ]
    assert examples.picture_batch(shown[:5]).shape == (5, 3, 16, 16)
    assert examples.large_side == 32


def test_a_prepared_picture_of_the_right_size_is_the_picture(prepared, damaged_folder):
    from PIL import Image

    out, _ = prepared
    pictures = np.load(out / "pictures_16.npy", mmap_mode="r")
    assert pictures.shape == (980, 16, 16, 3)
    assert (pictures[7] == np.asarray(Image.open(damaged_folder / "0007.png"))).all()


def test_facts_of_the_user_are_kept(prepared):
    out, _ = prepared
    row = json.loads((out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[3])
    assert row["captions"] == ["第3个老虎"]
    assert (row["number"], row["file_name"], row["split"]) == (3, "0003.png", "train")
    assert (row["width"], row["height"], row["index"]) == (16, 16, 3)


def rows_of(tmp_path, *lines):
    (tmp_path / "a.png").write_bytes(picture(0))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    return list(open_rows(str(tmp_path)))


@pytest.mark.parametrize("key", ["captions", "caption", "text"])
def test_each_key_of_the_sentences_is_read(tmp_path, key):
    [row] = rows_of(tmp_path, {"file_name": "a.png", key: " 猫\n", "style": "noto"})
    assert row.captions == ("猫",)
    assert row.facts == {"file_name": "a.png", "style": "noto"}
    assert row.picture == picture(0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/hostname", "leaves its folder"),
        ("x/../../a.png", "leaves its folder"),
        ("a\0.png", "NUL"),
        ("", "a text is wanted"),
        (5, "a text is wanted"),
        (".", "no plain file"),
        ("a.png/b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_a_name_that_is_no_file_of_the_folder_is_refused(tmp_path, name, reason):
    problem = rows_of(tmp_path, {"file_name": name, "text": "猫"})[0]
    assert isinstance(problem, Problem)
    assert reason in problem.reason
    assert problem.where.isprintable()
    assert len(problem.where) < 300


def test_a_pipe_does_not_stop_the_stream(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    problem, row = rows_of(
        tmp_path, {"file_name": "pipe.png", "text": "猫"}, {"file_name": "a.png", "text": "猫"}
    )
    assert problem.reason == "is no plain file"
    assert isinstance(row, Row)


@pytest.mark.parametrize("captions", [[], ["猫", ""], ["猫", None], {"zh": "猫"}, True])
def test_a_list_with_a_sentence_that_is_none_is_refused(tmp_path, captions):
    problem = rows_of(tmp_path, {"file_name": "a.png", "captions": captions})[0]
    assert "caption" in problem.reason


def test_a_picture_that_no_line_names_is_not_silent(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jpg").write_bytes(b"")
    row, problem = rows_of(tmp_path, {"file_name": "./a.png", "text": "猫"})
    assert isinstance(row, Row)
    assert problem == Problem("more/b.jpg", "no caption: no line of metadata.jsonl names it")


def test_json_too_deep_to_read_is_named(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"a":' + "[" * 200_000 + "\n")
    [problem] = open_rows(str(tmp_path))
    assert "broken JSON" in problem.reason


def test_a_line_longer_than_a_row_may_be_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("rapid_diffusion.datasets.rows.MOST_BYTES", 100)
    long = {"file_name": "a.png", "text": "猫" * 1000}
    problem, row = rows_of(tmp_path, long, {"file_name": "a.png", "text": "猫"})
    assert "longer than" in problem.reason
    assert isinstance(row, Row)


def test_a_prepared_folder_is_read_as_it_was_written(prepared):
    out, _ = prepared
    rows = open_rows(str(out))
    first = next(rows)
    assert first.captions == ("第0个老虎",)
    assert first.facts["number"] == 0
    rows.close()
