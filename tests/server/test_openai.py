"""OpenAI's images, with the bodies its SDK sends (openai-python 2.x, `client.images.generate`)."""

import base64
import hashlib
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

# What the SDK adds to every request, as far as a server sees it.
SDK_HEADERS = {
    "Accept": "application/json",
    "Authorization": "Bearer sk-anything",
    "User-Agent": "OpenAI/Python 2.8.0",
    "X-Stainless-Lang": "python",
    "x-stainless-retry-count": "0",
}
BODY = {"prompt": "老虎", "model": "micro", "n": 1}


def ask(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/images/generations", json=BODY | changes, headers=SDK_HEADERS)


def test_picture_is_that_of_generate(client: httpx.Client) -> None:
    answer = ask(client, seed=42, output_format="png")  # seed: by the SDK's extra_body
    body, ours = answer.json(), client.post("/generate", json={"prompt": "老虎", "seed": 42}).json()
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))))
    assert answer.status_code == 200
    assert isinstance(body["created"], int)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == ours["data"][0]["pixel_sha256"]
    assert body["size"] == f"{pixels.shape[1]}x{pixels.shape[0]}"


def test_size_is_the_final_one(client: httpx.Client) -> None:
    able = client.get("/v1/capabilities").json()
    size, scale = able["sizes"][0], able["upscales"][-1]
    wanted = f"{size['width'] * scale}x{size['height'] * scale}"
    body = ask(client, size=wanted).json()
    assert (body["data"][0]["width"], body["size"]) == (size["width"] * scale, wanted)
    assert ask(client, size="auto").status_code == 200


def test_revised_prompt_has_the_names_of_the_entities(client: httpx.Client) -> None:
    assert ask(client, prompt="一个大虫").json()["data"][0]["revised_prompt"] == "一个老虎"


def test_several_pictures(client: httpx.Client) -> None:
    assert len(ask(client, n=3).json()["data"]) == 3


def test_stream_ends_with_the_completed_picture(client: httpx.Client) -> None:
    answer = ask(client, stream=True, seed=42)
    events = [block for block in answer.text.split("\n\n") if block.startswith("event")]
    name, data = events[0].split("\n")
    event = json.loads(data.removeprefix("data: "))
    plain = ask(client, seed=42).json()["data"][0]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (len(events), name) == (1, "event: image_generation.completed")
    assert event["type"] == "image_generation.completed"
    assert event["pixel_sha256"] == plain["pixel_sha256"]


def test_error_that_comes_later_is_told_in_the_stream(serve: Any, gate: Any) -> None:
    client = serve()
    gate.flat = True
    gate.open.set()
    answer = ask(client, stream=True, num_inference_steps=100)
    if answer.status_code == 200:  # else it came at once, with its own status
        assert "event: error" in answer.text
        assert '"code": "internal"' in answer.text
    else:
        assert answer.json()["error"]["code"] == "internal"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "dall-e-3"}, "model"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"size": "1024x1024"}, "size"),
        ({"size": "big"}, "size"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"partial_images": 2}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"partial_images": 1, "stream": True, "num_candidates": 2}, "partial_images"),
        ({"response_format": "url"}, "response_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"wiht": 3}, "wiht"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "  "}, "prompt"),
    ],
)
def test_wrong_values_are_refused_by_name(
    client: httpx.Client, change: dict[str, Any], param: str
) -> None:
    answer = ask(client, **change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_models_lists_the_one_that_is_loaded(client: httpx.Client) -> None:
    data = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in data] == ["micro"]
