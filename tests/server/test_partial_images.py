"""Partial images: asked for they come, in order and labelled, and the picture stays the same."""

import base64
import io
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from rapid_diffusion.errors import NumericalError
from rapid_diffusion.images.label import draw_label
from server.device import preview_steps
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7, "num_inference_steps": 8}
PARTIAL = "image_generation.partial_image"


@pytest.fixture(scope="module")
def jobs(
    pipeline: Any, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    with serving(Settings(state=tmp_path_factory.mktemp("partial")), pipeline) as client:
        yield client


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line[1:])
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def stream(client: httpx.Client, **changes: Any) -> list[tuple[str, dict[str, Any]]]:
    answer = client.post("/v1/images/generations", json=BODY | {"stream": True} | changes)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def picture_of(event: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))


def test_two_partial_images_and_then_the_same_picture(client: httpx.Client) -> None:
    events = stream(client, partial_images=2)
    plain = client.post("/generate", json=BODY).json()["data"][0]
    assert [name for name, _ in events] == [PARTIAL, PARTIAL, "image_generation.completed"]
    assert [event["partial_image_index"] for _, event in events[:2]] == [0, 1]
    assert events[-1][1]["pixel_sha256"] == plain["pixel_sha256"]
    assert all(event["type"] == name for name, event in events)


def test_without_being_asked_none_comes(client: httpx.Client) -> None:
    for wish in ({}, {"partial_images": 0}):
        assert [name for name, _ in stream(client, **wish)] == ["image_generation.completed"]


def test_they_come_nearer_to_the_picture(client: httpx.Client) -> None:
    events = stream(client, partial_images=3, label={"explicit": False})
    *steps, final = [np.asarray(picture_of(event), np.float32) for _, event in events]
    far = [np.abs(step - final).mean() for step in steps]
    assert len(far) == 3
    assert far[0] > far[2]


@pytest.mark.parametrize("position", ["bottom_right", "top_left"])
def test_each_shows_the_label_where_the_picture_has_it(client: httpx.Client, position: str) -> None:
    labelled = stream(client, partial_images=2, label={"position": position})
    plain = stream(client, partial_images=2, label={"explicit": False})
    for (_, shown), (_, without) in zip(labelled, plain, strict=True):
        wanted = draw_label(np.asarray(picture_of(without)), position)
        assert np.array_equal(np.asarray(picture_of(shown)), wanted)
        assert json.loads(picture_of(shown).text["AIGC"])["Label"] == "1"


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_they_have_the_format_and_the_size_of_the_picture(client: httpx.Client, kind: str) -> None:
    events = stream(client, partial_images=1, output_format=kind)
    pictures = [picture_of(event) for _, event in events]
    assert [picture.format for picture in pictures] == [kind.upper()] * 2
    assert (
        {event["size"] for _, event in events} == {"64x64"} == {"{}x{}".format(*pictures[0].size)}
    )


def test_several_pictures_have_theirs(client: httpx.Client) -> None:
    events = stream(client, partial_images=2, n=3)
    places = {(e["index"], e["partial_image_index"]) for n, e in events if n == PARTIAL}
    assert places == {(picture, number) for picture in range(3) for number in range(2)}
    assert len(events) == 6 + 3


def test_a_job_tells_them_as_events_and_replays_them(jobs: httpx.Client) -> None:
    job = jobs.post("/v1/jobs", json=BODY | {"partial_images": 2}).json()
    events = events_of(jobs.get(f"/v1/jobs/{job['id']}/events").text)
    plain = jobs.post("/generate", json=BODY).json()["data"][0]
    shown = [event for name, event in events if name == PARTIAL]
    result = jobs.get(f"/v1/jobs/{job['id']}?wait=20").json()["result"]
    assert [event["partial_image_index"] for event in shown] in ([0, 1], [])  # [] once it is over
    assert result["data"][0]["pixel_sha256"] == plain["pixel_sha256"]


def test_a_job_that_is_on_its_way_has_told_its_previews(
    serve: Any, gate: Any, tmp_path: Any
) -> None:
    client = serve(state=tmp_path)
    job = client.post("/v1/jobs", json=BODY | {"partial_images": 3}).json()
    assert gate.entered.wait(60)
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        gate.open.set()
        events = events_of("".join(answer.iter_text()))
    names = [name for name, _ in events]
    assert names.count(PARTIAL) == 3
    assert names[:2] == ["queued", "started"]
    assert names[-1] == "image_generation.completed"
    assert all(event["id"] == job["id"] for _, event in events)


def test_candidates_are_not_shown_on_their_way(jobs: httpx.Client) -> None:
    answer = jobs.post("/v1/jobs", json=BODY | {"partial_images": 1, "num_candidates": 2})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "partial_images")


def test_a_preview_that_is_nan_is_left_out(
    client: httpx.Client, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = pipeline.decode, []

    def spoiled(latents: Any) -> Any:
        calls.append(latents)
        if len(calls) == 1:
            raise NumericalError("NaN")
        return decode(latents)

    monkeypatch.setattr(pipeline, "decode", spoiled)
    numbers = [e.get("partial_image_index") for _, e in stream(client, partial_images=2)]
    assert numbers == [1, None]


def test_looks_are_spread_inside_the_run() -> None:
    for steps, previews in product(range(1, 101), (0, 1, 2, 3)):
        found = preview_steps(previews, steps)
        assert all(0 < step < steps for step in found)
        assert len(found) == previews or steps <= previews + 1
