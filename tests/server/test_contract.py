"""The OpenAPI document is whole, and answers keep to it (long form: benchmarks/contract.py)."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.messages import KINDS
from server.settings import Settings

# Chains of requests, after some 70 cases an operation at the edges of its schemas: the limit of
# CI's time. The long form draws 2,000 an operation at random as well.
CASES = 5


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    paths = document["paths"].items()
    return [(method, path, op) for path, ops in paths for method, op in ops.items()]


def test_a_server_asked_at_random_keeps_to_its_document(
    benchmark_script: Any, serving: Any, pipeline: Any, tmp_path: Path
) -> None:
    contract = benchmark_script("contract")
    settings = Settings(state=tmp_path / "state", job_limit=10_000)
    with serving(settings, pipeline) as client:
        url = str(client.base_url).rstrip("/")
        found = contract.examine(url, CASES, 0, tmp_path, "--phases", "coverage,stateful")
    assert found.failures == {}, found.output
    assert found.server_errors == 0, found.output
    assert found.exit_code == 0, found.output
    assert found.cases > 500
    assert found.linked > 0
    assert {"200", "202", "404", "405", "409", "415", "422"} <= set(found.statuses)


def test_every_answer_has_a_schema(document: dict[str, Any]) -> None:
    told = {
        f"{method} {path} {status} {kind}": content.get("schema")
        for method, path, operation in operations(document)
        for status, response in operation["responses"].items()
        if status < "400"
        for kind, content in response["content"].items()
    }
    assert [name for name, schema in told.items() if not schema] == []


def test_every_field_of_an_answer_is_in_the_document(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    body = client.post("/generate", json={"prompt": "老虎", "num_candidates": 2}).json()
    (picture,) = body["data"]
    assert set(body) <= set(schemas["GenerationAnswer"]["properties"])
    assert set(picture) <= set(schemas["ImageAnswer"]["properties"])
    assert set(picture["candidates"]) == set(schemas["ChoiceAnswer"]["properties"])


def test_every_problem_is_in_the_document_with_its_status(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    told = {
        (code, int(status))
        for status, response in responses.items()
        for schema in response["content"].values()
        for code in schema["schema"]["allOf"][1]["properties"]["error"]["properties"]["code"][
            "enum"
        ]
    }
    assert told == {(code, kind.status) for code, kind in KINDS.items()}


def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, list):
            return [r for entry in value for r in references(entry)]
        if not isinstance(value, dict):
            return []
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [r for entry in value.values() for r in references(entry)]

    found = set(references(document))
    assert found
    for reference in found:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_a_wrong_method_is_told_all_the_right_ones(client: httpx.Client) -> None:
    answer = client.delete("/v1/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
