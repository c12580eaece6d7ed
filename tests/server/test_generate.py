"""The whole road: a sentence over a socket, a picture with its facts back."""

import base64
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion import request as library
from rapid_diffusion.candidates import MOST_CANDIDATES
from rapid_diffusion.commands.verify import changes, draw_again, labelled_again, told_by
from rapid_diffusion.images.label import draw_label, read_labels
from server.capabilities import read_capabilities
from server.errors import Problem
from server.reading import check_capabilities
from server.schemas import GenerationRequest

TIGER = {"prompt": "三维立体风格的老虎", "seed": 42}


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_answer_holds_the_picture_and_its_facts(client: httpx.Client) -> None:
    answer = client.post("/generate", json=TIGER)
    body, able = answer.json(), client.get("/v1/capabilities").json()
    picture = body["data"][0]
    pixels = pixels_of(base64.b64decode(picture["b64_json"]))
    assert answer.status_code == 200
    assert body["model"] == able["model"]
    assert picture["seed"] == 42
    assert pixels.shape == (picture["height"], picture["width"], 3)
    assert picture["pixel_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert body["knowledge"]["version"] == able["knowledge"]["version"]
    assert body["truncated"] is None
    assert body["unknown"] == []
    assert {"queue", "denoise", "encode", "total"} <= set(body["timings_ms"])
    assert "denoise;dur=" in answer.headers["server-timing"]


def test_picture_equals_the_library_with_the_same_seed(
    client: httpx.Client, pipeline: RapidDiffusionPipeline
) -> None:
    picture = client.post("/generate", json=TIGER).json()["data"][0]
    drawn = draw_label(pipeline(TIGER["prompt"], seed=42, output_type="numpy").images[0])
    assert picture["pixel_sha256"] == hashlib.sha256(drawn.tobytes()).hexdigest()


def test_parameters_reach_the_pipeline(client: httpx.Client) -> None:
    able = client.get("/v1/capabilities").json()
    wanted = {
        "negative_prompt": "模糊",
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "scheduler": able["schedulers"][-1],
        "upscale": 1,
        **able["sizes"][-1],
    }
    body = client.post("/generate", json=TIGER | wanted).json()
    assert body["parameters"].items() >= wanted.items()
    assert body["data"][0]["width"] == wanted["width"]


def test_style_is_told_and_the_parameters_of_an_answer_can_be_asked_for(
    client: httpx.Client,
) -> None:
    asked = {"prompt": "老虎", "seed": 1}
    first = client.post("/generate", json=asked | {"style": "卡通"}).json()
    told = client.post("/generate", json=asked | {"prompt": "老虎，卡通"}).json()
    again = client.post("/generate", json=asked | first["parameters"]).json()
    pictures = [answer["data"][0]["pixel_sha256"] for answer in (first, told, again)]
    assert len(set(pictures)) == 1
    assert first["parameters"]["style"] == "卡通"


def test_entities_are_reported_with_offsets_of_the_prompt(client: httpx.Client) -> None:
    entities = client.post("/generate", json=TIGER).json()["entities"]
    found = [(e["surface"], TIGER["prompt"][e["start"] : e["end"]]) for e in entities]
    assert ("老虎", "老虎") in found


def test_entities_off_links_nothing(client: httpx.Client) -> None:
    body = client.post("/generate", json=TIGER | {"entities": "off"}).json()
    assert body["entities"] == []


def test_named_entity_comes_back_with_its_weight(client: httpx.Client) -> None:
    linked = client.post("/generate", json=TIGER).json()["entities"][0]
    named = {"id": linked["id"], "weight": 0.5, "start": linked["start"], "end": linked["end"]}
    body = client.post("/generate", json=TIGER | {"entities": [named]}).json()
    assert [(e["id"], e["weight"]) for e in body["entities"]] == [(linked["id"], 0.5)]


def test_named_entities_come_back_in_order(client: httpx.Client) -> None:
    tiger = client.post("/generate", json=TIGER).json()["entities"][0]["id"]
    named = [{"id": tiger, "weight": 0.5}, {"id": tiger, "weight": 2, "start": 0, "end": 2}]
    entities = client.post("/generate", json=TIGER | {"entities": named}).json()["entities"]
    assert [(e["weight"], e["surface"]) for e in entities] == [(0.5, "老虎"), (2.0, "三维")]


def test_seed_that_was_drawn_draws_the_same_picture_again(client: httpx.Client) -> None:
    first = client.post("/generate", json={"prompt": "老虎"}).json()["data"][0]
    again = client.post("/generate", json={"prompt": "老虎", "seed": first["seed"]}).json()
    assert 0 <= first["seed"] < 2**32
    assert again["data"][0]["pixel_sha256"] == first["pixel_sha256"]


@pytest.mark.parametrize("seed", [0, 2**53 - 1])
def test_extreme_seeds_are_drawn_and_returned_exactly(client: httpx.Client, seed: int) -> None:
    body = client.post("/generate", json={"prompt": "老虎", "seed": seed}).json()
    assert body["data"][0]["seed"] == seed


def test_several_pictures_have_several_seeds(client: httpx.Client) -> None:
    data = client.post("/generate", json=TIGER | {"num_images_per_prompt": 3}).json()["data"]
    assert len({picture["seed"] for picture in data}) == 3
    assert len({picture["pixel_sha256"] for picture in data}) == 3


def test_accept_picture_is_answered_with_the_picture(client: httpx.Client) -> None:
    answer = client.post("/generate", json=TIGER, headers={"Accept": "image/png"})
    digest = hashlib.sha256(pixels_of(answer.content).tobytes()).hexdigest()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "42"
    assert answer.headers["x-pixel-sha256"] == digest


def test_accept_that_contradicts_the_format_is_refused(client: httpx.Client) -> None:
    body = TIGER | {"output_format": "jpeg"}
    answer = client.post("/generate", json=body, headers={"Accept": "image/png"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "output_format")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_format_carries_the_label_and_the_parameters(
    client: httpx.Client, tmp_path: Path, kind: str
) -> None:
    body = TIGER | {"output_format": kind, "response_format": "binary"}
    answer = client.post("/generate", json=body)
    file = tmp_path / f"tiger.{kind}"
    file.write_bytes(answer.content)
    labels = read_labels(file)
    assert answer.headers["content-type"] == f"image/{kind}"
    assert labels["format"] == kind.upper()
    assert labels["AIGC"]["Label"] == "1"
    assert (labels["parameters"]["prompt"], labels["parameters"]["seed"]) == (TIGER["prompt"], 42)


@pytest.mark.parametrize("entities", ["auto", "off", [{"id": "老虎", "weight": 0.5}]])
def test_its_picture_can_be_drawn_again_from_the_file(
    client: httpx.Client, pipeline: RapidDiffusionPipeline, tmp_path: Path, entities: Any
) -> None:
    body = TIGER | {"entities": entities, "response_format": "binary", "negative_prompt": "猫"}
    file = tmp_path / "tiger.png"
    file.write_bytes(client.post("/generate", json=body).content)
    told = told_by(file)
    assert changes(pipeline, told) == {}
    again = labelled_again(draw_again(pipeline, told), told)
    assert np.array_equal(again, pixels_of(file.read_bytes()))


def test_provenance_says_what_the_file_says(client: httpx.Client) -> None:
    body = client.post("/generate", json=TIGER).json()
    image = Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"])))
    told = json.loads(image.text["parameters"])["label"]
    assert told == {"explicit": True, "position": "bottom_right"}
    assert body["provenance"] == {"aigc": body["provenance"]["aigc"], **told}
    assert body["provenance"]["aigc"] == [json.loads(image.text["AIGC"])]
    assert "ContentProducer" not in body["provenance"]["aigc"][0]


def test_lower_quality_makes_a_smaller_file(client: httpx.Client) -> None:
    body = TIGER | {"output_format": "jpeg", "response_format": "binary"}
    fine = client.post("/generate", json=body | {"output_quality": 95}).content
    coarse = client.post("/generate", json=body | {"output_quality": 20}).content
    assert len(coarse) < len(fine)


def test_long_prompt_says_the_first_character_lost(client: httpx.Client) -> None:
    prompt = "老虎" * 300
    truncated = client.post("/generate", json={"prompt": prompt, "seed": 1}).json()["truncated"]
    assert prompt[truncated["start"]] == truncated["character"]


@pytest.mark.parametrize("prompt", ["𠀀𠀁𠀂", "🦄", "ಠ_ಠ", "a", "<script>&'\"\\"])
def test_unknown_characters_are_drawn_all_the_same(client: httpx.Client, prompt: str) -> None:
    assert client.post("/generate", json={"prompt": prompt, "seed": 1}).status_code == 200


def test_repro_key_is_equal_for_equal_requests_only(client: httpx.Client) -> None:
    bodies = [TIGER, TIGER, TIGER | {"seed": 43}]
    keys = [client.post("/generate", json=body).json()["repro"]["key"] for body in bodies]
    assert keys[0] == keys[1] != keys[2]


def test_request_id_is_echoed_or_made(client: httpx.Client) -> None:
    mine = client.get("/livez", headers={"X-Request-Id": "shop-17"})
    bad = client.get("/livez", headers={"X-Request-Id": "no blanks, please"})
    problem = client.post("/generate", json={}, headers={"X-Request-Id": "shop-18"})
    assert mine.headers["x-request-id"] == "shop-17"
    assert bad.headers["x-request-id"].startswith("req_")
    assert problem.json()["instance"].endswith("shop-18")
    assert problem.headers["x-request-id"] == "shop-18"


def test_trace_of_the_caller_goes_on(client: httpx.Client) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    given = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    version, same, span, flags = (
        client.get("/livez", headers=given).headers["traceparent"].split("-")
    )
    assert (version, same, flags) == ("00", trace, "01")
    assert span != "b7ad6b7169203331"


def test_capabilities_name_what_can_be_asked(client: httpx.Client) -> None:
    able = client.get("/v1/capabilities").json()
    assert able["limits"]["seed"] == [0, 2**53 - 1]
    assert able["limits"]["body_bytes"] == 65_536
    assert {1} <= set(able["upscales"])
    assert all({"width", "height"} == set(size) for size in able["sizes"])
    assert "CC-BY" in able["attributions"]


def test_limits_are_those_of_the_library(client: httpx.Client) -> None:
    limits = client.get("/v1/capabilities").json()["limits"]
    assert limits["prompt_characters"][1] == library.MOST_CHARACTERS
    assert limits["num_inference_steps"][1] == library.MOST_STEPS
    assert limits["guidance_scale"][1] == library.MOST_GUIDANCE
    assert limits["num_images_per_prompt"][1] == library.MOST_IMAGES
    assert limits["num_candidates"][1] == MOST_CANDIDATES
    assert limits["seed"][1] == library.MOST_SEED


def test_openapi_describes_the_request(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/generate"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["prompt"]


def test_metrics_count_and_never_hold_a_prompt(client: httpx.Client) -> None:
    client.post("/generate", json=TIGER, headers={"X-Request-Id": "secret-id"})
    text = client.get("/metrics").text
    assert 't2i_requests_total{status="200"}' in text
    assert 't2i_stage_latency_seconds_count{stage="denoise"}' in text
    assert "t2i_knowledge_version_info" in text
    assert "老虎" not in text
    assert "secret-id" not in text


def test_the_best_of_several_comes_with_its_seed_and_all_scores(client: httpx.Client) -> None:
    body = client.post("/generate", json=TIGER | {"num_candidates": 3}).json()
    picture = body["data"][0]
    choice = picture["candidates"]
    assert (choice["count"], choice["seeds"][0]) == (3, 42)
    assert choice["scores"][choice["chosen"]] == max(choice["scores"])
    assert picture["seed"] == choice["seeds"][choice["chosen"]]
    alone = client.post("/generate", json=TIGER | {"seed": picture["seed"]}).json()["data"][0]
    assert alone["pixel_sha256"] == picture["pixel_sha256"]


def test_a_model_without_an_image_tower_refuses_candidates_by_name(
    pipeline: RapidDiffusionPipeline,
) -> None:
    bare = RapidDiffusionPipeline(replace(pipeline.model, pair=None), pipeline.folder)
    asked = GenerationRequest(prompt="老虎", num_candidates=2)
    check_capabilities(asked, read_capabilities(pipeline))
    with pytest.raises(Problem) as caught:
        check_capabilities(asked, read_capabilities(bare))
    assert (caught.value.status, caught.value.param) == (422, "num_candidates")
