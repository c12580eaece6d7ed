"""Pieces of the OpenAPI document that several routes share, and how a route is called."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

_PROBLEM: dict[str, Any] = {"description": "a problem", "content": {"application/problem+json": {}}}


class PlainRoute(APIRoute):
    """Hands its function the request and sends the response that it returns.

    For functions of a request alone: reading parameters and shaping answers, which FastAPI does
    else, would take as long as drawing a step.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As `APIRoute` says."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


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
