"""Adapters over HTTP: listed, drawn with, refused by name."""

import hashlib

import httpx
import pytest

from rapid_diffusion.images.label import draw_label

TIGER = {"prompt": "三维立体风格的老虎", "seed": 42}


def test_adapters_are_listed_and_draw_what_the_library_draws(adapted) -> None:
    client, pipeline = adapted
    listed = client.get("/v1/capabilities").json()["adapters"]
    assert [entry["name"] for entry in listed] == ["ink"]
    assert listed[0]["digest"] == pipeline.adapters["ink"].digest
    plain, inked = (
        client.post("/generate", json=TIGER | wish).json() for wish in ({}, {"adapter": "ink"})
    )
    drawn = draw_label(
        pipeline(TIGER["prompt"], seed=42, adapter="ink", output_type="numpy").images[0]
    )
    assert inked["data"][0]["pixel_sha256"] == hashlib.sha256(drawn.tobytes()).hexdigest()
    assert inked["parameters"]["adapter"] == "ink"
    assert plain["data"][0]["pixel_sha256"] != inked["data"][0]["pixel_sha256"]
    assert plain["repro"]["key"] != inked["repro"]["key"]


@pytest.mark.parametrize(
    ("wish", "param", "told"),
    [
        ({"adapter": "oil"}, "adapter", "ink"),
        ({"adapter": "ink", "adapter_scale": 3.0}, "adapter_scale", "2"),
        ({"adapter_scale": 1.0}, "adapter_scale", "no adapter is named"),
        ({"adapter": ""}, "adapter", "1"),
    ],
)
def test_what_cannot_be_is_a_422_that_names_the_field(adapted, wish, param, told) -> None:
    answer = adapted[0].post("/generate", json=TIGER | wish)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param
    assert told in answer.json()["detail"]


def test_a_server_without_adapters_says_so(client: httpx.Client) -> None:
    answer = client.post("/generate", json=TIGER | {"adapter": "ink"})
    assert answer.status_code == 422
    assert "no adapter loaded" in answer.json()["detail"]
    assert client.get("/v1/capabilities").json()["adapters"] == []
