"""Base64 tables: three columns, pairs of files, JSON lines; and what they are when damaged."""

import base64
import json

import pytest

from rapid_diffusion.datasets.formats import open_rows, recognise
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.errors import InvalidRequestError

from .conftest import picture

PICTURE = picture(0)
PLAIN = base64.b64encode(PICTURE).decode()
FORMS = {
    "plain": PLAIN,
    "urlsafe": base64.urlsafe_b64encode(PICTURE).decode(),
    "unpadded": PLAIN.rstrip("="),
    "data": f"data:image/png;base64,{PLAIN}",
}


def rows_of(path, content, file_format=None):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(open_rows(str(path), file_format))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_of_base64_gives_the_bytes(tmp_path, form):
    [row] = rows_of(tmp_path / "a.tsv", f"7\t一只猫\t{FORMS[form]}\r\n")
    assert row == Row(PICTURE, ("一只猫",), {"id": "7"}, "a.tsv:1 7")


@pytest.mark.parametrize(
    "header",
    [("idx", "text", "imgbase64"), ("image_id", "base64", "caption"), ("img", "text", "id")],
)
def test_a_header_says_the_order_of_the_columns(tmp_path, header):
    values = {"i": "7", "t": "猫", "c": "猫", "b": PLAIN}
    line = "\t".join(PLAIN if name in ("imgbase64", "img") else values[name[0]] for name in header)
    [row] = rows_of(tmp_path / "a.tsv", "\ufeff" + "\t".join(header) + f"\n{line}\n")
    assert (row.picture, row.captions, row.facts) == (PICTURE, ("猫",), {"id": "7"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1\t\xe7\x8c\t" + PLAIN.encode(), "not UTF-8"),
        ("1\t猫\t!!!!", "wrong base64"),
        (f"1\t猫\t{PLAIN[:41]}", "wrong base64"),
        ("1\t猫\t", "base64 is empty"),
        (f"1\t \t{PLAIN}", "blank"),
        (f"1\t{PLAIN}", "2 columns; 3 are wanted"),
        (f"1\t猫\t狗\t{PLAIN}", "4 columns"),
        (f"\t猫\t{PLAIN}", "no id"),
        (f"0\t猫\t{PLAIN}", "given before, in a.tsv:1 0"),
        ("", None),
    ],
)
def test_a_broken_line_is_named_and_spoils_no_other(tmp_path, line, reason):
    good = f"0\t猫\t{PLAIN}".encode()
    line = line if isinstance(line, bytes) else line.encode()
    found = rows_of(tmp_path / "a.tsv", b"\n".join([good, line, good.replace(b"0", b"9", 1)]))
    problems = [item for item in found if isinstance(item, Problem)]
    assert len(found) - len(problems) == 2
    assert [reason in problem.reason for problem in problems] == [True] * (reason is not None)


def test_a_pair_joins_pictures_and_sentences_in_any_order(tmp_path):
    (tmp_path / "x.text.tsv").write_text("image_id\ttext\n2\t狗\n1\t猫\n2\t大狗\n3\t鱼\n")
    found = rows_of(
        tmp_path / "x.img.tsv", f"image_id\timage\n1\t{PLAIN}\n2\t{PLAIN}\n4\t{PLAIN}\n"
    )
    assert [(row.captions, row.facts) for row in found[:2]] == [
        (("猫",), {"id": "1"}),
        (("狗", "大狗"), {"id": "2"}),
    ]
    assert found[2:] == [
        Problem("x.img.tsv:4 4", "no caption: no sentence names this picture"),
        Problem("x.text.tsv:5 3", "no picture in x.img.tsv"),
    ]


def test_a_pair_in_the_jsonl_of_muge(tmp_path):
    texts = [
        {"text_id": 1, "text": "猫", "image_ids": [10, 11]},
        {"text_id": 2, "text": "狗", "image_ids": []},
        {"text_id": 3, "text": 5, "image_ids": [10]},
        {"text_id": 4, "image_ids": [10]},
    ]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    (tmp_path / "train_texts.jsonl").write_text(lines)
    found = rows_of(tmp_path / "train_imgs.tsv", f"10\t{PLAIN}\n11\t{PLAIN}\n10\t{PLAIN}\n")
    problems = [item for item in found if isinstance(item, Problem)]
    assert [row.captions for row in found if isinstance(row, Row)] == [("猫",), ("猫",)]
    assert [problem.where for problem in problems] == [
        "train_texts.jsonl:2",
        "train_texts.jsonl:3",
        "train_texts.jsonl:4",
        "train_imgs.tsv:3 10",
    ]
    for path in (tmp_path, tmp_path / "train_texts.jsonl", tmp_path / "train_imgs.tsv"):
        assert recognise(str(path)) == "pair"
        assert list(open_rows(str(path))) == found


def test_what_cannot_be_recognised_says_so(tmp_path):
    (tmp_path / "train_imgs.tsv").write_text("")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "nothing.tar"):
        with pytest.raises(InvalidRequestError, match="path"):
            list(open_rows(str(path)))
    with pytest.raises(InvalidRequestError, match="partner"):
        list(open_rows(str(tmp_path / "train_imgs.tsv"), "pair"))
    with pytest.raises(InvalidRequestError, match="allowed: folder"):
        open_rows(str(tmp_path), "csv")
