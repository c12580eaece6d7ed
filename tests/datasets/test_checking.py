"""What `data check` says, and with which exit code."""

import base64
import io
import json

import pytest
from PIL import Image

from rapid_diffusion.cli import run
from rapid_diffusion.datasets import words
from rapid_diffusion.datasets.checking import MOST_NAMED, Limits, Spread, check, piece_count
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.datasets.words import FrequentWords
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.text.tokens import SPECIAL, TextTokenizer

from .conftest import encode, picture


def row(content, *captions, where="a"):
    return Row(content, captions or ("猫",), {}, where)


def test_sizes_and_those_below_the_training_size_are_counted():
    sizes = [(20, 10), (30, 40), (64, 8), (100, 90)]
    report = check(row(encode(Image.new("RGB", size))) for size in sizes)
    assert report.shorter_side == Spread(8, 10, 90)
    assert report.longer_side == Spread(20, 40, 100)
    assert report.below_training_size == 2


def test_doubles_are_told_by_file_and_by_pixels():
    with Image.open(io.BytesIO(picture(0))) as image:
        again = encode(image, "BMP")
    items = [
        row(content, where=name)
        for name, content in zip("abcd", [picture(0), picture(0), again, picture(1)], strict=True)
    ]
    report = check(items)
    assert (report.same_file, report.same_pixels) == (1, 1)
    assert report.doubles == [("b", "a"), ("c", "a")]


def test_captions_beyond_the_limit_are_counted_and_named():
    report = check([row(picture(0), "猫" * 10, "猫" * 11, where="x")], Limits(16, 12))
    assert (report.captions, report.cut_captions, report.cut_rows) == (2, 1, ["x"])
    assert report.caption_length == Spread(12, 12, 13)


@pytest.mark.parametrize(
    "text", ["一只猫。", "A red cat, 3 只", "café ☕", "猫\u3000狗", "你好，世界！"]
)
def test_pieces_are_counted_as_the_tokenizer_counts_them(text):
    characters = sorted({c for c in text.lower() if not c.isspace()} | {"e"})
    joined = [f"##{c}" for c in characters if c.isascii() and c.isalnum()]
    tokenizer = TextTokenizer.from_vocabulary([*SPECIAL, *characters, *joined], 64)
    assert tokenizer([text], [[]], 1).mask.sum() == piece_count(text)


def test_broken_rows_are_counted_by_reason_and_the_names_are_bounded():
    found = []
    problems = (Problem(f"row {n}", f"{n}x{n} pixels; too small") for n in range(MOST_NAMED + 5))
    report = check(problems, on_problem=found.append)
    assert report.broken == len(found) == MOST_NAMED + 5
    assert len(report.broken_rows) == MOST_NAMED
    assert sum(report.reasons.values()) == report.broken


def test_links_and_frequent_words_without_any(tmp_path):
    graph = build_micro_graph(tmp_path / "graph")
    texts = ["扁平贴纸风格的老虎", "一只扁平贴纸风格的猫", "狗 sticker", "鱼 sticker"]
    report = check([row(picture(0), *texts)], graph=graph)
    assert report.linked_captions == 2
    assert report.unlinked_words == [("扁平贴纸风格", 2), ("sticker", 2)]


def test_a_number_and_its_measure_word_are_no_part_of_a_word():
    counted = FrequentWords()
    for text in ("画一件深色的衣服", "一件深色上装", "深色的裤子", "两条长裤"):
        counted.add(text, [])
    assert counted.most_common(9) == [("深色", 3)]


def test_words_are_counted_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(words, "MOST_CANDIDATES", 100)
    counted = FrequentWords()
    for number in range(2000):
        counted.add(f"熊猫 word-{chr(97 + number % 26)}{chr(97 + number // 26)}", [])
    assert counted.most_common(1) == [("熊猫", 2000)]
    assert len(counted._counts) <= 100


def test_a_sound_set_leaves_with_0_and_a_broken_one_with_3(damaged_folder, tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    assert run(["data", "check", str(damaged_folder), "--broken", str(broken)]) == 3
    text = capsys.readouterr().out
    assert "980 sound, 20 broken" in text
    assert "metadata.jsonl:1000: the JSON is a list; an object is wanted" in text
    assert len(broken.read_text().splitlines()) == 20
    good = tmp_path / "good.tsv"
    good.write_text(f"1\t猫\t{base64.b64encode(picture(0)).decode()}\n")
    assert run(["data", "check", str(good)]) == 0
    assert "nothing is broken" in capsys.readouterr().out


def test_the_report_as_json_has_every_figure(tmp_path, capsys):
    graph = build_micro_graph(tmp_path / "graph").path
    good = tmp_path / "good.tsv"
    good.write_text(f"1\t猫\t{base64.b64encode(picture(0)).decode()}\n2\t猫\t\n")
    assert run(["data", "check", str(good), "--json", "--graph", str(graph)]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["broken"], report["linked_captions"]) == (1, 1, 1)
    assert report["broken_rows"] == [
        {"where": "good.tsv:2 2", "reason": "no picture; the base64 is empty"}
    ]


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--format", "csv"], ["."]])
def test_what_cannot_be_read_is_wrong_usage(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert run(["data", "check", *arguments]) == 2
    assert "rapid-diffusion: " in capsys.readouterr().err
