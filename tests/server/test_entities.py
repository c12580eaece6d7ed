"""What the graph finds in a text: over the socket, through the worker, and in answers."""

from typing import Any

import httpx
import pytest

from server.device import LocalDevice
from server.device_main import LoadPipeline
from server.errors import Problem
from server.metrics import Metrics
from server.process import Patience, RemoteDevice
from server.worker import Worker

TEXT = "红苹果和老虎"


def test_a_text_is_linked_as_its_prompt_is(client: httpx.Client) -> None:
    found = client.get("/v1/entities", params={"q": TEXT}).json()
    drawn = client.post("/generate", json={"prompt": TEXT}).json()
    shown = [{k: v for k, v in entity.items() if k != "weight"} for entity in drawn["entities"]]
    bare = [{k: e[k] for k in shown[0]} for e in found["entities"]]
    assert [entity["name"] for entity in bare] == ["红苹果", "老虎"]
    assert (bare, found["knowledge"]) == (shown, drawn["knowledge"])


def test_neighbours_are_facts_of_the_graph(client: httpx.Client) -> None:
    found = client.get("/v1/entities", params={"q": TEXT}).json()["entities"][0]
    facts = [(fact["relation"], fact["name"]) for fact in found["neighbours"]]
    assert sorted(facts) == [("属于", "水果"), ("颜色", "红色")]
    none = client.get("/v1/entities", params={"q": TEXT, "neighbours": 0}).json()
    assert none["entities"][0]["neighbours"] == []


def test_names_beyond_the_tenth_are_told_as_unlinked(client: httpx.Client) -> None:
    prompt = "，".join(["老虎"] * 12)
    drawn = client.post("/generate", json={"prompt": prompt}).json()
    found = client.get("/v1/entities", params={"q": prompt}).json()
    assert len(drawn["entities"]) == 10
    assert [(u["surface"], u["reason"]) for u in drawn["unlinked"]] == [("老虎", "too_many")] * 2
    assert drawn["unlinked"][0]["candidates"][0]["id"] == drawn["entities"][0]["id"]
    assert found["unlinked"] == drawn["unlinked"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": "虎" * 2001}, "q"),
        ({"q": "虎", "neighbours": "x"}, "neighbours"),
        ({"q": "虎", "neighbours": 101}, "neighbours"),
    ],
)
def test_wrong_questions_are_refused_by_name(
    client: httpx.Client, query: dict[str, Any], param: str
) -> None:
    answer = client.get("/v1/entities", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_a_process_finds_what_the_library_finds(
    micro_model_folder: Any, pipeline: Any, serving: Any
) -> None:
    device = RemoteDevice(LoadPipeline(str(micro_model_folder), "cpu", 1), Patience())
    device.start()
    try:
        found = device.look_up(TEXT, 3)
    finally:
        device.close()
    assert found == LocalDevice(pipeline).look_up(TEXT, 3)
    with pytest.raises(Problem, match="not_ready"):
        Worker(device, 1, Metrics()).look_up(TEXT, 3)


def test_without_a_graph_nothing_is_found(micro_model_folder: Any) -> None:
    from rapid_diffusion import RapidDiffusionPipeline

    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder, knowledge=False)
    found = LocalDevice(pipe).look_up(TEXT, 3)
    assert found == {"knowledge": {"version": None}, "entities": [], "unlinked": []}


def test_version_and_start_are_told(client: httpx.Client) -> None:
    told, able = client.get("/version").json(), client.get("/v1/capabilities").json()
    assert (told["version"], told["model"]) == (able["version"], able["model"])
    assert client.get("/startupz").json() == {"status": "started"}
