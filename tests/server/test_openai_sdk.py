"""OpenAI's own client against a server of ours: what it sends is understood, and the other way."""

import base64
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from server.settings import Settings

SEED = {"seed": 7}


@pytest.fixture(scope="module")
def sdk(
    pipeline: Any, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    with serving(Settings(state=tmp_path_factory.mktemp("sdk")), pipeline) as client:
        url = str(client.base_url).rstrip("/")
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
            yield sdk


def digest_of(b64_json: str | None) -> str:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json or ""))))
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_pictures_come_as_base64(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(
        prompt="一个大虫", model="micro", n=2, size="64x64", extra_body=SEED
    )
    assert len(answer.data) == 2
    assert answer.data[0].revised_prompt == "一个老虎"
    assert digest_of(answer.data[0].b64_json) == answer.data[0].pixel_sha256
    assert (answer.size, answer.output_format) == ("64x64", "png")


def test_pictures_come_as_addresses(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(prompt="老虎", response_format="url", extra_body=SEED)
    plain = sdk.images.generate(prompt="老虎", extra_body=SEED)
    file = httpx.get(answer.data[0].url)
    assert answer.data[0].b64_json is None
    assert digest_of(base64.b64encode(file.content).decode()) == digest_of(plain.data[0].b64_json)


def test_stream_has_partial_images_and_then_the_picture(sdk: openai.OpenAI) -> None:
    plain = sdk.images.generate(prompt="老虎", extra_body=SEED)
    with sdk.images.generate(
        prompt="老虎", stream=True, partial_images=2, extra_body=SEED
    ) as stream:
        events = list(stream)
    assert [type(event).__name__ for event in events] == [
        "ImageGenPartialImageEvent",
        "ImageGenPartialImageEvent",
        "ImageGenCompletedEvent",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert digest_of(events[-1].b64_json) == digest_of(plain.data[0].b64_json)


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"n": 9}, "n"),
        ({"size": "1024x1024"}, "size"),
        ({"model": "dall-e-3"}, "model"),
        ({"quality": "hd"}, "quality"),
        ({"extra_body": {"num_inference_steps": 0}}, "num_inference_steps"),
        ({"extra_body": {"label": {"position": "middle"}}}, "label.position"),
        ({"stream": True, "partial_images": 2, "extra_body": {"seed": -1}}, "seed"),
    ],
)
def test_errors_are_those_of_the_client_with_the_parameter(
    sdk: openai.OpenAI, wish: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        sdk.images.generate(prompt="老虎", **wish)
    assert (caught.value.param, caught.value.status_code) == (param, 422)
    assert caught.value.type == "invalid_request_error"


def test_an_error_inside_a_stream_is_raised(serve: Any, gate: Any) -> None:
    url = str(serve().base_url).rstrip("/")
    gate.flat = True
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        stream = sdk.images.generate(prompt="老虎", stream=True)
        gate.open.set()
        with stream, pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "internal"


def test_the_list_of_models_is_read(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["micro"]
