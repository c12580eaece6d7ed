"""Parquet as the hub stores it."""

import datetime

import pytest

from rapid_diffusion.datasets.formats import open_rows
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.errors import InvalidRequestError

from .conftest import picture

arrow = pytest.importorskip("pyarrow")
PICTURE = picture(0)


def write(path, **columns):
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns), path, row_group_size=2)
    return path


def test_bytes_and_structs_of_bytes_are_pictures(tmp_path):
    write(tmp_path / "a-1.parquet", image=[PICTURE], text=["猫"], day=[datetime.date(2026, 1, 2)])
    struct = {"bytes": PICTURE, "path": None}
    write(tmp_path / "a-10.parquet", image=[struct], captions=[["狗", "大狗"]], raw=[b"\xff"])
    one, two = open_rows(str(tmp_path))
    assert (one.picture, one.captions, one.facts) == (PICTURE, ("猫",), {"day": "2026-01-02"})
    assert (two.picture, two.captions, two.facts) == (PICTURE, ("狗", "大狗"), {})
    assert two.where == "a-10.parquet[0]"


def test_broken_rows_are_named_and_spoil_no_other(tmp_path):
    (tmp_path / "p.png").write_bytes(PICTURE)
    images = [
        {"bytes": PICTURE, "path": "p.png"},
        {"bytes": None, "path": "p.png"},
        {"bytes": None, "path": "../p.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": PICTURE, "path": None},
    ]
    path = write(tmp_path / "a.parquet", image=images, caption=["猫"] * 5 + [None])
    found = list(open_rows(str(path)))
    assert [isinstance(item, Row) for item in found] == [True, True, *[False] * 4]
    assert [item.where for item in found[2:]] == [f"a.parquet[{n}]" for n in (2, 3, 4, 5)]


def test_a_file_that_is_no_parquet_is_a_problem_and_the_next_one_is_read(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    write(tmp_path / "b.parquet", image=[PICTURE], text=["猫"])
    problem, row = open_rows(str(tmp_path))
    assert isinstance(problem, Problem)
    assert "Parquet" in problem.reason
    assert isinstance(row, Row)


def test_damaged_pages_are_named(tmp_path):
    path = write(tmp_path / "a.parquet", image=[PICTURE] * 4, text=list("猫狗鱼鸟"))
    content = bytearray(path.read_bytes())
    content[10:60] = bytes(50)
    path.write_bytes(content)
    found = list(open_rows(str(path)))
    assert any(isinstance(item, Problem) for item in found)
    assert [item.captions for item in found if isinstance(item, Row)][-2:] == [("鱼",), ("鸟",)]


def test_missing_columns_are_named_with_those_there_are(tmp_path):
    path = write(tmp_path / "a.parquet", picture=[PICTURE], text=["猫"])
    with pytest.raises(InvalidRequestError, match="picture, text"):
        list(open_rows(str(path)))
