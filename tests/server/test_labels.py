"""The explicit label of the service's pictures: there unless somebody may go without it."""

import base64
import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from rapid_diffusion import RapidDiffusionPipeline, cli
from rapid_diffusion.images.label import draw_label, read_labels
from server.errors import Problem
from server.keys import main, new_key
from server.label_log import LabelLog
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7}
PLAIN = BODY | {"label": {"explicit": False}}


@pytest.fixture(scope="module")
def drawn(pipeline: RapidDiffusionPipeline) -> np.ndarray:
    """The picture without a label."""
    picture: np.ndarray = pipeline("老虎", seed=7, output_type="numpy").images[0]
    return picture


@pytest.fixture(scope="module")
def keyed(
    pipeline: Any, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, dict[str, dict[str, str]], Path]]:
    """A server with two keys, one of which may go without the label, their headers, its state."""
    folder = tmp_path_factory.mktemp("labels")
    given = {"shop": new_key("shop"), "press": new_key("press", "unlabelled")}
    entries = [kept.model_dump() for _, kept in given.values()]
    (folder / "keys.json").write_text(json.dumps({"keys": entries}))
    headers = {n: {"Authorization": f"Bearer {text}"} for n, (text, _) in given.items()}
    settings = Settings(keys_file=folder / "keys.json", state=folder / "state")
    with serving(settings, pipeline) as client:
        yield client, headers, folder / "state"


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def decoded(answer: httpx.Response) -> np.ndarray:
    return pixels_of(base64.b64decode(answer.json()["data"][0]["b64_json"]))


@pytest.mark.parametrize("position", ["top_left", "top_right", "bottom_left", "bottom_right"])
def test_the_label_is_where_it_was_asked_for(
    client: httpx.Client, drawn: np.ndarray, position: str
) -> None:
    answer = client.post("/generate", json=BODY | {"label": {"position": position}})
    body = answer.json()
    wanted = draw_label(drawn, position)
    assert np.array_equal(decoded(answer), wanted)
    assert body["data"][0]["pixel_sha256"] == hashlib.sha256(wanted.tobytes()).hexdigest()
    assert body["provenance"]["position"] == position


def test_on_the_loopback_a_picture_may_go_without(client: httpx.Client, drawn: np.ndarray) -> None:
    plain, labelled = (client.post("/generate", json=body) for body in (PLAIN, BODY))
    assert np.array_equal(decoded(plain), drawn)
    assert plain.json()["provenance"]["explicit"] is False
    assert plain.json()["repro"]["key"] != labelled.json()["repro"]["key"]


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations", "/v1/jobs"])
def test_only_a_key_of_that_scope_goes_without_and_that_is_logged(
    keyed: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client, headers, state = keyed
    caplog.set_level(logging.INFO, "server.service")
    refused = client.post(path, json=PLAIN, headers=headers["shop"] | {"X-Request-Id": "r-1"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "label_required")
    assert refused.json()["error"]["param"] == "label.explicit"
    assert not caplog.records
    taken = client.post(path, json=PLAIN, headers=headers["press"] | {"X-Request-Id": "r-2"})
    assert taken.status_code < 300
    assert [record.getMessage() for record in caplog.records] == [
        "request r-2 of 'press': no explicit label"
    ]
    log = (state / "unlabelled.jsonl").read_text().splitlines()
    assert (json.loads(log[-1])["key"], json.loads(log[-1])["request"]) == ("press", "r-2")


def test_the_log_is_kept_six_months_and_a_cut_line_is_no_obstacle(tmp_path: Path) -> None:
    log = LabelLog(tmp_path / "unlabelled.jsonl")
    log.note("press", "new")
    old, cut = json.dumps({"time": time.time() - 185 * 86_400, "key": "a"}), '{"time": 1'
    young = json.dumps({"time": time.time() - 180 * 86_400, "key": "b"})
    with (tmp_path / "unlabelled.jsonl").open("a") as file:
        file.write(f"{old}\n{young}\n{cut}")
    log.sweep()
    lines = (tmp_path / "unlabelled.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["request"] == "new"
    assert lines[1:] == [young, cut]


def test_what_cannot_be_logged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        LabelLog(tmp_path / "nowhere" / "unlabelled.jsonl").note("press", "r")
    assert (caught.value.status, caught.value.code) == (503, "storage_unavailable")


def test_the_setting_decides_for_those_who_say_nothing(
    serving: Any, pipeline: Any, drawn: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAPID_DIFFUSION_EXPLICIT_LABEL", "false")
    with serving(Settings(), pipeline) as client:
        assert np.array_equal(decoded(client.post("/generate", json=BODY)), drawn)
        asked = client.post("/generate", json=BODY | {"label": {"explicit": True}})
        assert np.array_equal(decoded(asked), draw_label(drawn))
        assert client.get("/v1/capabilities").json()["label"]["explicit"] is False


def test_beyond_the_loopback_nobody_without_a_key_goes_without(serving: Any, pipeline: Any) -> None:
    settings = Settings(host="0.0.0.0", allow_unauthenticated=True, content_producer="CODE")
    with serving(settings, pipeline) as client:
        assert client.post("/generate", json=PLAIN).status_code == 403


def test_a_picture_too_small_for_the_text_says_that_it_has_none(client: httpx.Client) -> None:
    body = client.post("/generate", json=BODY | {"upscale": 1}).json()
    assert (body["data"][0]["width"], body["provenance"]["explicit"]) == (16, False)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_inspect_tells_of_the_label_in_every_format(
    client: httpx.Client, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for body, shows in ((BODY, True), (PLAIN, False)):
        more = {"output_format": kind, "response_format": "binary"}
        (tmp_path / "a").write_bytes(client.post("/generate", json=body | more).content)
        assert cli.run(["inspect", str(tmp_path / "a")]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["explicit"], told["format"]) == (shows, kind.upper())
        assert told["AIGC"]["Label"] == "1"


@pytest.mark.parametrize("label", [{}, {"position": "top_left"}, {"explicit": False}])
def test_verify_draws_the_label_again(
    client: httpx.Client, micro_model_folder: Path, tmp_path: Path, label: dict[str, Any]
) -> None:
    file = tmp_path / "a.png"
    body = BODY | {"label": label, "response_format": "binary"}
    file.write_bytes(client.post("/generate", json=body).content)
    assert cli.run(["verify", str(file), "--model", str(micro_model_folder)]) == 0
    assert read_labels(file)["explicit"] is (label != {"explicit": False})


def test_the_entry_of_such_a_key_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["press", "unlabelled"]) == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == ["unlabelled"]
    assert main(["press", "everything"]) == 2


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_parameters_stay_out_of_files_where_the_setting_or_the_key_says_so(
    pipeline: Any, serving: Any, tmp_path: Path, kind: str
) -> None:
    text, key = new_key("quiet")
    other, loud = new_key("loud")
    entries = [key.model_dump() | {"embed_parameters": False}, loud.model_dump()]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": entries}))
    settings = Settings(keys_file=tmp_path / "keys.json")
    for given, embeds in ((settings, True), (settings.model_copy(update=OFF), False)):
        with serving(given, pipeline) as client:
            assert told_in_file(client, text, kind, tmp_path) == (False, "1")
            assert told_in_file(client, other, kind, tmp_path) == (embeds, "1")


OFF = {"embed_parameters": False}


def told_in_file(client: httpx.Client, key: str, kind: str, folder: Path) -> tuple[bool, str]:
    """Whether a picture's file has its parameters, and the `Label` of its implicit label."""
    body = BODY | {"response_format": "binary", "output_format": kind}
    answer = client.post("/generate", json=body, headers={"Authorization": f"Bearer {key}"})
    (folder / "picture").write_bytes(answer.content)
    found = read_labels(folder / "picture")
    assert found["xmp"] == found["AIGC"]
    return found["parameters"] is not None, found["AIGC"]["Label"]
