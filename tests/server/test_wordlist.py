"""The word list: finds what is meant however it is written, and leaves harmless prompts alone."""

import csv
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from rapid_diffusion.errors import InvalidRequestError
from server.app import create_app
from server.control import Control
from server.errors import Problem
from server.settings import Settings
from server.wordlist import WordList, Words, fold

DATA = Path(__file__).parents[1] / "data"
# What lists of this kind hold, and the everyday phrases that an operator would except.
TERMS = ["赌博", "毒品", "大麻", "裸体", "色情", "血腥", "枪", "杀人", "吸烟", "枪战"]
TERMS += ["sex", "ass", "cock", "rape", "gun", "drug", "tit", "anal", "hell", "nazi"]
ALLOWED = ["大麻雀", "水枪", "枪鱼", "喷枪", "火尖枪", "血腥玛丽鸡尾酒", "禁止吸烟"]
HARMLESS = ["classic glass", "Essex", "cocktail", "grape", "burgundy", "Shell", "title", "canal"]
HARMLESS += ["peacock", "begun", "drugstore", "grass", "大麻雀", "水枪", "旗枪鱼", "血腥玛丽鸡尾酒"]
STYLES = ["三维立体风格的{}", "{}，扁平插画", "一张{}的水彩画", "画一个可爱的{}", "{} 卡通贴纸"]


def harmless_prompts() -> list[str]:
    """The 360 sentences of the gold set, everyday words with traps in them, and entities."""
    lines = (DATA / "link_gold.jsonl").read_text(encoding="utf-8").splitlines()
    with (DATA / "link_graph.csv").open(encoding="utf-8", newline="") as file:
        entities = dict.fromkeys(row[0].partition("[")[0] for row in csv.reader(file))
    traps = [style.format(word) for style in STYLES for word in HARMLESS]
    pairs = itertools.product(STYLES, entities)
    drawn = (style.format(name) for style, name in itertools.islice(pairs, 0, None, 7))
    sentences = [json.loads(line)["text"] for line in lines]
    return list(dict.fromkeys([*sentences, *traps, *drawn]))[:1000]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_thousand_harmless_prompts_raise_no_alarm() -> None:
    prompts, words = harmless_prompts(), WordList(TERMS, ALLOWED)
    naive = [p for p in prompts if any(fold(term) in fold(p) for term in TERMS)]
    assert len(prompts) == 1000
    assert len(naive) >= len(STYLES) * len(HARMLESS)  # plain search would refuse these
    assert [prompt for prompt in prompts if words.refuses(prompt)] == []


@pytest.mark.parametrize(
    "prompt",
    [
        "一个赌博的人",
        "一個賭博的人",  # traditional
        "赌\u200b博",  # invisible characters
        "赌\ufe0f博",
        "ＳＥＸ 的海报",  # full width
        "Sex海报",  # a word ends where Chinese begins
        "性感 sex.",
        "大麻雀吃大麻",  # an exception covers its own place only
        "枪战现场",
        "一把枪，和水枪",
    ],
)
def test_terms_are_found_however_they_are_written(prompt: str) -> None:
    assert WordList(TERMS, ALLOWED).refuses(prompt)


def test_terms_of_several_words_are_found_across_blanks() -> None:
    words = WordList(["blood bath"])
    assert words.refuses("a Blood\n  BATH")
    assert not words.refuses("a bloodbath, a blood bathroom")


def test_empty_list_refuses_nothing(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "deploy" / "word_list.txt"
    assert len(WordList.read(shipped)) == len(Words(None).current) == 0
    assert not WordList.read(shipped).refuses("赌博")


def test_file_is_read_with_comments_exceptions_and_marks(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeff# 词表\r\n\r\n 賭博 \r\n!大麻雀\r\n大麻\r\n".encode())
    words = WordList.read(path)
    assert len(words) == 2
    assert [words.refuses(text) for text in ("赌博", "大麻", "大麻雀", "词表")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"\xff\xfe", "byte 0"),
        (b"ok\n!\n", "line 2"),
        (("x" * 201).encode(), "line 1"),
        ("ok\n\u200b\n".encode(), "line 2"),
        (b"secret\n\n!Secret\n", "line 1 refuses what line 3 allows"),
    ],
)
def test_wrong_file_is_refused_with_its_place_but_not_its_words(
    tmp_path: Path, content: bytes, place: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=place) as caught:
        WordList.read(path)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value).lower()


def test_missing_file_is_told_before_the_server_starts(pipeline: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="nothing"):
        create_app(Settings(word_list=tmp_path / "nothing"), pipeline)


@pytest.fixture
def listed(serving_app: Any, pipeline: Any, tmp_path: Path) -> Any:
    """A server with a list of one term, and what an operator does with it."""
    path = write(tmp_path / "list.txt", "赌博")
    app = create_app(Settings(word_list=path, state=tmp_path / "state"), pipeline)
    with serving_app(app) as client:
        yield client, Control(app.state.service), path


@pytest.mark.parametrize("path", ["/generate", "/v1/jobs", "/v1/images/generations"])
def test_refused_prompt_is_422_and_the_term_is_told_nobody(
    listed: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client, _, _ = listed
    caplog.set_level(logging.DEBUG)
    answer: httpx.Response = client.post(path, json={"prompt": "一個賭博的人"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        422,
        "content_filtered",
        "prompt",
    )
    assert "赌博" not in answer.text + caplog.text
    assert "賭博" not in answer.text + caplog.text
    assert 't2i_content_filtered_total{by="words"} 1.0' in client.get("/metrics").text


def test_style_is_looked_at_too(listed: Any) -> None:
    client, _, _ = listed
    answer = client.post("/generate", json={"prompt": "猫", "style": "赌博"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "style")


def test_stream_is_refused_with_a_status_and_ids_are_looked_at(listed: Any) -> None:
    client, _, _ = listed
    stream = {"prompt": "赌博", "stream": True}
    assert client.post("/v1/images/generations", json=stream).status_code == 422
    named = {"prompt": "画", "entities": [{"id": "赌博[行为]"}]}
    assert client.post("/generate", json=named).json()["error"]["param"] == "entities"


@pytest.mark.parametrize("path", ["/generate", "/v1/jobs", "/v1/images/generations"])
def test_refused_prompt_is_not_noted_among_the_unlabelled_pictures(listed: Any, path: str) -> None:
    client, _, words = listed
    noted = words.parent / "state" / "unlabelled.jsonl"
    plain = {"label": {"explicit": False}}
    assert client.post(path, json=plain | {"prompt": "赌博"}).status_code == 422
    assert not noted.exists()
    assert client.post(path, json=plain | {"prompt": "老虎"}).status_code in (200, 202)
    assert len(noted.read_text().splitlines()) == 1


def test_negative_prompt_may_hold_anything(listed: Any) -> None:
    client, _, _ = listed
    body = {"prompt": "老虎", "negative_prompt": "赌博", "num_inference_steps": 1}
    assert client.post("/generate", json=body).status_code == 200


def test_list_is_exchanged_and_a_wrong_one_leaves_the_old(listed: Any) -> None:
    client, control, path = listed
    body = {"prompt": "老虎", "num_inference_steps": 1}
    write(path, "赌博", "老虎")
    assert control.reload_words() == 2
    assert client.post("/generate", json=body).status_code == 422
    path.write_bytes(b"\xff")
    with pytest.raises(Problem) as caught:
        control.reload_words()
    assert (caught.value.status, caught.value.values["kept"]) == (409, "2 terms")
    assert client.post("/generate", json=body).status_code == 422
    write(path, "赌博")
    control.hang_up()
    assert client.post("/generate", json=body).status_code == 200
