"""Tar shards, sound and damaged."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from rapid_diffusion.datasets import tar
from rapid_diffusion.datasets.formats import open_rows
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.datasets.shards import expand_braces, find_shards
from rapid_diffusion.errors import InvalidRequestError

from .conftest import picture

PICTURE = picture(0)


def shard(path, members, tar_format=tarfile.PAX_FORMAT):
    """Write `members`, (name, bytes or TarInfo type); returns the path."""
    with tarfile.open(path, "w", format=tar_format) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def pair(key, text="猫", ending="jpg"):
    return [(f"{key}.{ending}", PICTURE), (f"{key}.txt", text.encode())]


def rows_of(path):
    found = list(open_rows(str(path)))
    return [f for f in found if isinstance(f, Row)], [f for f in found if isinstance(f, Problem)]


def test_a_row_is_what_shares_a_key(tmp_path):
    facts = {"caption": "大猫", "style": "noto"}
    members = [
        *pair("a/000"),
        ("a/001.json", json.dumps(facts).encode()),
        ("a/001.PNG", PICTURE),
        ("a/001.seg.png", b"not ours"),
        ("a/._001.jpg", b"of a Mac"),
        *pair("./b.002", "狗"),
    ]
    members[-1] = ("./b.txt", "狗".encode())
    members[-2] = ("./b.webp", PICTURE)
    rows, problems = rows_of(shard(tmp_path / "s.tar", members))
    assert not problems
    assert [row.captions for row in rows] == [("猫",), ("大猫",), ("狗",)]
    assert [row.where for row in rows] == ["s.tar:a/000", "s.tar:a/001", "s.tar:b"]
    assert rows[1].facts == {"style": "noto"}
    assert all(row.picture == PICTURE for row in rows)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_chinese_names_are_read(tmp_path, tar_format):
    key = "动物/" + "很长的名字" * 30
    rows, problems = rows_of(shard(tmp_path / "s.tar", pair(key) + pair("x"), tar_format))
    assert not problems
    assert len(rows) == 2
    assert rows[0].where.startswith("s.tar:动物/很长的名字")


DAMAGE = {
    "traversal": ([("../x.jpg", PICTURE), ("../x.txt", b"x")], "leaves its folder"),
    "absolute": ([("/x.jpg", PICTURE), ("/x.txt", b"x")], "leaves its folder"),
    "no-picture": ([("x.txt", b"x")], "no picture"),
    "no-caption": ([("x.jpg", PICTURE)], "no caption"),
    "two-pictures": ([("x.jpg", PICTURE), ("x.png", PICTURE), ("x.txt", b"x")], "second .png"),
    "link": ([("x.jpg", "/etc/hostname"), ("x.txt", b"x")], "is a link"),
    "blank": ([("x.jpg", PICTURE), ("x.txt", b" \n")], "blank"),
    "not-utf-8": ([("x.jpg", PICTURE), ("x.txt", b"\xff")], "not UTF-8"),
    "broken-json": ([("x.jpg", PICTURE), ("x.json", b"{")], "broken JSON"),
    "no-text": ([("x.jpg", PICTURE), ("x.json", b"{}")], "no caption"),
    "again": (pair("first"), "given before"),
    "no-key": ([(".jpg", PICTURE)], "gives no key"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_a_broken_sample_is_named_and_spoils_no_other(tmp_path, name):
    members, reason = DAMAGE[name]
    path = shard(tmp_path / "s.tar", [*pair("first"), *pair("k"), *members, *pair("last")])
    rows, [problem] = rows_of(path)
    assert [row.where for row in rows] == ["s.tar:first", "s.tar:k", "s.tar:last"]
    assert reason in problem.reason


def test_a_shard_that_is_cut_off_is_named_wherever_it_is_cut(tmp_path):
    content = shard(tmp_path / "s.tar", [m for k in "abc" for m in pair(k)]).read_bytes()
    for end in range(0, len(content), 500):
        (tmp_path / "s.tar").write_bytes(content[:end])
        rows, problems = rows_of(tmp_path / "s.tar")
        assert len(rows) < 3 or end > 3 * 4 * 512
        # The zero blocks at the end are many; a single one of them is a sound end.
        assert problems or (len(rows) == 3 and not any(content[end - 512 : end])), end


def test_after_a_damaged_header_the_next_sound_one_is_found(tmp_path):
    content = bytearray(shard(tmp_path / "s.tar", [m for k in "abc" for m in pair(k)]).read_bytes())
    content[content.index(b"b.jpg")] ^= 1
    (tmp_path / "s.tar").write_bytes(content)
    rows, problems = rows_of(tmp_path / "s.tar")
    assert [row.where for row in rows] == ["s.tar:a", "s.tar:c"]
    assert [p.where for p in problems] == ["s.tar", "s.tar:b"]
    assert "damaged after" in problems[0].reason


def test_the_fast_way_to_read_a_header_agrees_with_the_library(tmp_path, monkeypatch):
    sound = shard(tmp_path / "s.tar", [*pair("a"), *pair("动物/b"), *pair("很长的名字" * 30)])
    contents = [sound.read_bytes()]
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(contents[0]), 60):
        contents.append(bytearray(contents[0]))
        contents[-1][place] ^= int(generator.integers(1, 256))
    fast = [list(tar.members(io.BytesIO(content))) for content in contents]
    monkeypatch.setattr(tar, "_parse_plain", lambda header: None)
    assert fast == [list(tar.members(io.BytesIO(content))) for content in contents]


def test_shards_in_gzip_are_read_as_far_as_they_are_sound(tmp_path):
    content = shard(tmp_path / "s.tar", [m for k in "abc" for m in pair(k)]).read_bytes()
    (tmp_path / "s.tar").unlink()
    packed = gzip.compress(content)
    (tmp_path / "s.tar.gz").write_bytes(packed)
    rows, problems = rows_of(tmp_path)
    assert (len(rows), problems) == (3, [])
    (tmp_path / "s.tar.gz").write_bytes(packed[: len(packed) * 2 // 3])
    rows, problems = rows_of(tmp_path)
    assert len(rows) < 3
    assert problems


def test_joined_archives_are_read_to_the_end(tmp_path):
    one, two = (shard(tmp_path / f"{k}.tar", pair(k)).read_bytes() for k in "ab")
    (tmp_path / "a.tar").write_bytes(one + two)
    rows, problems = rows_of(tmp_path / "a.tar")
    assert (len(rows), problems) == (2, [])


def test_patterns_name_their_shards_in_order(tmp_path):
    for number in (8, 9, 10):
        shard(tmp_path / f"s-{number}.tar", pair("k"))
    found = find_shards(str(tmp_path / "s-*.tar"))
    assert [path.name for path in found] == ["s-8.tar", "s-9.tar", "s-10.tar"]
    assert find_shards(str(tmp_path)) == found == find_shards(str(tmp_path / "s-{8..10}.tar"))
    assert expand_braces("{a,b}-{08..10}") == [f"{k}-{n}" for k in "ab" for n in ("08", "09", "10")]
    with pytest.raises(InvalidRequestError, match="no shard is there"):
        find_shards(str(tmp_path / "t-*.tar"))


def test_a_shard_that_braces_name_and_that_is_missing_is_a_problem(tmp_path):
    shard(tmp_path / "s-0.tar", pair("k"))
    rows, [problem] = rows_of(tmp_path / "s-{0..1}.tar")
    assert len(rows) == 1
    assert problem.where == "s-1.tar"
