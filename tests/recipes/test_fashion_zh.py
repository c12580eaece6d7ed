"""fashion_zh: what its captions say is to be seen, and its hidden aliases cannot be guessed."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from knowledge.formats import read_facts
from recipes.fashion_zh import build
from recipes.fashion_zh.garments import GARMENTS

BY_CODE = {garment.code: garment for garment in GARMENTS}


@pytest.fixture
def source(idx_folder, tmp_path):
    """Three pictures of each garment to train on, one held out, as the script leaves them."""
    given = ["--idx", str(idx_folder), "--out", str(tmp_path / "source")]
    build.main([*given, "--train", "3", "--held-out", "1"])
    return tmp_path / "source"


def rows_of(source):
    lines = (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def block(*parts: tuple[slice, slice], level: int = 200):
    """A picture (28, 28), black but for some rectangles."""
    picture = np.zeros((28, 28), np.uint8)
    for rows, columns in parts:
        picture[rows, columns] = level
    return picture


def test_the_folder_has_even_classes_both_splits_and_pictures_dark_on_white(source):
    rows = rows_of(source)
    assert Counter(row["code"] for row in rows) == dict.fromkeys(BY_CODE, 4)
    assert Counter(row["split"] for row in rows) == {"train": 30, "held_out": 10}
    assert all(row["captions"][0].endswith(row["name"]) for row in rows)
    with Image.open(source / rows[0]["file_name"]) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (32, 32)
    assert pixels[0].min() == 255 > pixels[16, 16]


def test_every_entity_and_hidden_alias_is_in_the_facts_and_no_caption_has_one(source):
    facts = read_facts(source / "facts.jsonl", "jsonl")
    surfaces = {(surface, key) for surface, key, _ in facts.aliases}
    rows = rows_of(source)
    captions = "".join(text for row in rows for text in row["captions"])
    for row in rows:
        assert all((alias, row["entity"]) in surfaces for alias in row["held_out_aliases"])
        assert not any(alias in captions for alias in row["held_out_aliases"])
    assert {row["entity"] for row in rows} <= {subject for subject, _, _ in facts.triples}


def test_a_hidden_alias_has_no_character_that_only_this_garment_has():
    for garment in GARMENTS:
        own = set(garment.name + "".join(garment.aliases))
        others = "".join(g.name + "".join(g.aliases) for g in GARMENTS if g is not garment)
        assert not own.difference(others) & set("".join(garment.hidden)), garment.name
    assert sum(bool(garment.hidden) for garment in GARMENTS) == 9


def test_words_for_what_is_seen_follow_the_pixels():
    body, sleeves = (slice(2, 26), slice(8, 20)), (slice(4, 10), slice(2, 26))
    long_sleeves = (slice(4, 24), slice(2, 26))
    shirt, sandal, pullover = BY_CODE["shirt"], BY_CODE["sandal"], BY_CODE["pullover"]
    assert build.look(shirt, block(body, sleeves)) == ("深色", "短袖")
    assert build.look(shirt, block(body, (slice(4, 24), slice(3, 25)), level=90))[0] == "浅色"
    assert build.look(sandal, block((slice(2, 26), slice(0, 28)))) == ("深色", "高跟")
    assert build.look(sandal, block((slice(14, 24), slice(0, 28)), level=160)) == ("", "平底")
    striped = block(long_sleeves, level=150)
    striped[::2] //= 3
    assert build.look(pullover, block(long_sleeves))[1] == "纯色"
    assert build.look(pullover, striped)[1] == "印花"
    assert build.look(pullover, np.zeros((28, 28), np.uint8)) == ("深色", "")


def test_missing_data_names_the_package_and_an_existing_folder_is_kept(
    idx_folder, tmp_path, source
):
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        build.main(["--idx", str(tmp_path / "none"), "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
    before = sorted(source.rglob("*"))
    with pytest.raises(SystemExit, match="exists"):
        build.main(["--idx", str(idx_folder), "--out", str(source)])
    assert sorted(source.rglob("*")) == before


def test_a_file_that_is_no_idx_is_named(tmp_path):
    path = tmp_path / "a.gz"
    for content in (b"no gzip", gzip.compress(b"\0\0\x08\x01\0\0\0\x09short")):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match="is no whole IDX file"):
            build.read_idx(path)
