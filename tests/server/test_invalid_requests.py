"""Every wrong request is refused with a 4xx that names what is wrong."""

import json
import random
import socket
import time
from typing import Any

import httpx
import pytest

from server.capabilities import read_capabilities
from server.errors import Problem
from server.reading import check_capabilities
from server.schemas import GenerationRequest

TIGER = "老虎"

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "  \t\n\u3000\u200b"}, "prompt"),
    ({"prompt": "虎" * 2001}, "prompt"),
    ({"prompt": "虎\ud800"}, "prompt"),
    ({"prompt": "虎\x00"}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": [TIGER]}, "prompt"),
    ({"prompt": {"text": TIGER}}, "prompt"),
    ({"negative_prompt": "虎" * 2001}, "negative_prompt"),
    ({"negative_prompt": "\udfff"}, "negative_prompt"),
    ({"negative_prompt": False}, "negative_prompt"),
    ({"style": "虎" * 65}, "style"),
    ({"style": "\x00"}, "style"),
    ({"style": ["卡通"]}, "style"),
    ({"width": 0}, "width"),
    ({"width": -16}, "width"),
    ({"width": 17}, "width"),
    ({"width": 10**30}, "width"),
    ({"width": "16"}, "width"),
    ({"height": 16.0}, "height"),
    ({"height": 17}, "height"),
    ({"height": True}, "height"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 101}, "num_inference_steps"),
    ({"num_inference_steps": 20.5}, "num_inference_steps"),
    ({"num_inference_steps": True}, "num_inference_steps"),
    ({"guidance_scale": -0.1}, "guidance_scale"),
    ({"guidance_scale": 30.1}, "guidance_scale"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"guidance_scale": float("inf")}, "guidance_scale"),
    ({"guidance_scale": "5"}, "guidance_scale"),
    ({"guidance_scale": False}, "guidance_scale"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 9}, "num_images_per_prompt"),
    ({"num_images_per_prompt": None}, "num_images_per_prompt"),
    ({"num_candidates": 0}, "num_candidates"),
    ({"num_candidates": 17}, "num_candidates"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**53}, "seed"),
    ({"seed": 2**53 - 1, "num_images_per_prompt": 2}, "seed"),
    ({"seed": 1.0}, "seed"),
    ({"seed": True}, "seed"),
    ({"seed": "42"}, "seed"),
    ({"seed": [1]}, "seed"),
    ({"scheduler": "magic"}, "scheduler"),
    ({"scheduler": ""}, "scheduler"),
    ({"scheduler": 1}, "scheduler"),
    ({"upscale": 0}, "upscale"),
    ({"upscale": 3}, "upscale"),
    ({"upscale": "4"}, "upscale"),
    ({"output_format": "gif"}, "output_format"),
    ({"output_format": "PNG"}, "output_format"),
    ({"output_quality": 0}, "output_quality"),
    ({"output_quality": 101}, "output_quality"),
    ({"response_format": "hex"}, "response_format"),
    ({"response_format": "binary", "num_images_per_prompt": 2}, "num_images_per_prompt"),
    ({"entities": "some"}, "entities"),
    ({"entities": None}, "entities"),
    ({"entities": {}}, "entities"),
    ({"entities": []}, "entities"),
    ({"entities": [{"id": "x"}] * 33}, "entities"),
    ({"entities": [{}]}, "entities[0].id"),
    ({"entities": [{"id": 5}]}, "entities[0].id"),
    ({"entities": [{"id": "a"}, {"id": "b", "weight": 2.1}]}, "entities[1].weight"),
    ({"entities": [{"id": "a", "weight": float("nan")}]}, "entities[0].weight"),
    ({"entities": [{"id": "a", "start": -1, "end": 1}]}, "entities[0].start"),
    ({"entities": [{"id": "a", "start": 1}]}, "entities"),
    ({"entities": [{"id": "a", "start": 2, "end": 2}]}, "entities"),
    ({"entities": [{"id": "a", "start": 0, "end": 3}]}, "entities"),
    ({"entities": [{"id": "a", "size": 1}]}, "entities[0].size"),
    ({"entities": [{"id": "no such entity"}]}, "entities"),
    ({"label": True}, "label"),
    ({"label": {"explicit": 1}}, "label.explicit"),
    ({"label": {"place": "left"}}, "label.place"),
    ({"label": {"position": "middle"}}, "label.position"),
    ({"label": {"explicit": False, "position": "top_left"}}, "label.position"),
    ({"label": {"explicit": True}, "upscale": 1}, "label.explicit"),
    ({"response_format": "url"}, "response_format"),
    ({"deadline_ms": 0}, "deadline_ms"),
    ({"deadline_ms": 1.5}, "deadline_ms"),
    ({"steps": 20}, "steps"),
    ({"Prompt": TIGER}, "Prompt"),
    ({"callback_on_step_end": "x"}, "callback_on_step_end"),
]


@pytest.mark.parametrize(("changes", "param"), INVALID, ids=lambda value: ascii(value)[:60])
def test_invalid_field_is_refused_by_name(
    client: httpx.Client, changes: dict[str, Any], param: str
) -> None:
    answer = post(client, json.dumps({"prompt": TIGER} | changes))
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == 422
    assert problem["error"]["param"] == param
    assert param in problem["detail"]
    assert problem["detail"] == problem["error"]["message"]


def test_missing_prompt_is_named(client: httpx.Client) -> None:
    problem = client.post("/generate", json={}).json()
    assert problem["error"]["param"] == "prompt"


@pytest.mark.parametrize("field", ["width", "height"])
def test_unsupported_size_lists_the_allowed_ones(client: httpx.Client, field: str) -> None:
    problem = client.post("/generate", json={"prompt": TIGER, field: 9999}).json()
    assert problem["error"]["code"] == "unsupported_size"
    assert problem["error"]["param"] == field
    assert problem["allowed"] == client.get("/v1/capabilities").json()["sizes"]


BROKEN = [
    b"",
    b"{",
    b"[1,]",
    b'{"prompt": "a" "seed": 1}',
    '{"prompt": "虎"}'.encode("gbk"),
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": "a", "\\ud800": 1}',
    b"[" * 60_000,
    b'{"seed": ' + b"9" * 5000 + b"}",
    '{"prompt": "虎"}'.encode("utf-16"),
]


def test_5000_random_sizes_are_offered_or_refused_with_the_list(pipeline: Any) -> None:
    able, chance = read_capabilities(pipeline), random.Random(0)
    listed = [{"width": width, "height": height} for height, width in able.sizes]
    for _ in range(5000):
        size = {side: chance.randint(1, 300) for side in ("width", "height")}
        asked = GenerationRequest.model_validate({"prompt": TIGER} | size)
        if size in listed:
            check_capabilities(asked, able)
            continue
        with pytest.raises(Problem, match="unsupported_size") as refused:
            check_capabilities(asked, able)
        assert refused.value.allowed == listed


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_broken_json_is_400(client: httpx.Client, body: bytes) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("body", ["[]", '"老虎"', "1", "null", "true", "NaN"])
def test_json_that_is_no_object_is_422(client: httpx.Client, body: str) -> None:
    answer = post(client, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "body")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types_are_415(client: httpx.Client, kind: str) -> None:
    answer = post(client, '{"prompt": "老虎"}', kind)
    assert answer.status_code == 415


@pytest.mark.parametrize("size", [65_537, 300_000, 5_000_000])
def test_large_body_is_413(client: httpx.Client, size: int) -> None:
    assert post(client, b"x" * size).status_code == 413


def test_large_chunked_body_is_413(client: httpx.Client) -> None:
    answer = client.post(
        "/generate",
        content=iter([b"x" * 1000] * 100),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413


def test_prompt_of_100000_characters_is_413(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "虎" * 100_000})
    assert answer.status_code == 413


def test_ten_thousand_unknown_fields_get_a_short_answer(client: httpx.Client) -> None:
    body = {str(number): 0 for number in range(6000)}
    answer = client.post("/generate", json=body)
    assert answer.status_code == 422
    assert len(answer.content) < 5000


def test_unknown_address_and_method_are_problems(client: httpx.Client) -> None:
    assert client.get("/nothing").json()["status"] == 404
    answer = client.get("/generate")
    assert (answer.json()["status"], answer.headers["allow"]) == (405, "POST")
    assert client.post("/generate/", json={}).status_code == 404


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,zh;q=0.5", "en"), ("", "en"), ("fr;q=x", "en")],
)
def test_problems_speak_the_language_asked_for(
    client: httpx.Client, accepted: str, language: str
) -> None:
    headers = {"Accept-Language": accepted}
    answer = client.post("/generate", json={"prompt": ""}, headers=headers)
    assert answer.headers["content-language"] == language
    assert ("字符" in answer.json()["detail"]) == (language == "zh")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://elsewhere.example"}, "cross_origin"),
        ({"Origin": "null"}, "cross_origin"),
        ({"Origin": "http://[::1"}, "cross_origin"),
        ({"Host": "elsewhere.example"}, "forbidden_host"),
        ({"Host": "[::1"}, "forbidden_host"),
    ],
)
def test_foreign_origins_and_hosts_are_refused(
    client: httpx.Client, headers: dict[str, str], code: str
) -> None:
    answer = client.post("/generate", json={"prompt": TIGER}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)


def test_own_origin_is_answered(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    answer = client.post("/generate", json={"prompt": TIGER}, headers={"Origin": origin})
    assert answer.status_code == 200


def test_client_that_leaves_within_its_body_is_no_error(
    client: httpx.Client, survived: Any, caplog: pytest.LogCaptureFixture
) -> None:
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    while 't2i_requests_total{status="499"}' not in client.get("/metrics").text:
        time.sleep(0.01)
    survived(client, 'requests_total{status="499"}')
    assert "Traceback" not in caplog.text


def post(client: httpx.Client, body: str | bytes, kind: str = "application/json") -> httpx.Response:
    content = body.encode("utf-8") if isinstance(body, str) else body
    return client.post("/generate", content=content, headers={"Content-Type": kind})
