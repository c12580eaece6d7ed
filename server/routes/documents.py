"""Pieces of the OpenAPI document that several routes share."""

from typing import Any

from pydantic import BaseModel

_PROBLEM: dict[str, Any] = {"description": "a problem", "content": {"application/problem+json": {}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The statuses that a route answers with a problem."""
    return dict.fromkeys(statuses, _PROBLEM)


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A required body of JSON, for routes that read it themselves."""
    content = {
        "application/json": {
            "schema": kind.model_json_schema(ref_template="#/components/schemas/{model}")
        }
    }
    return {"requestBody": {"required": True, "content": content}}
