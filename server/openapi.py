"""The OpenAPI document, completed: what FastAPI cannot read out of routes that answer by hand.

Every operation gets the statuses of the guards before it, every problem its schema and its codes,
every answer its schema, and a job's address the operations that take it further.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server import answer_schemas as answers
from server.messages import KINDS
from server.middleware import needs_key
from server.schemas import MAX_PROMPT

_EVERYWHERE = ("403", "413", "500")  # foreign host or origin, a body too large, a crash
_REFERENCE = "#/components/schemas/{model}"
_PICTURES: dict[str, Any] = {f"image/{kind}": None for kind in ("png", "jpeg", "webp")}
_STREAM: dict[str, Any] = {"text/event-stream": answers.EventAnswer}

#: What an operation answers when all is well: the class of each type's schema; None: bytes or text.
_ANSWERS: dict[tuple[str, str], dict[str, type[BaseModel] | None]] = {
    ("post", "/generate"): {"application/json": answers.GenerationAnswer, **_PICTURES},
    ("post", "/v1/images/generations"): {"application/json": answers.OpenAIAnswer, **_STREAM},
    ("get", "/v1/images/{image_id}/{index}"): _PICTURES,
    ("get", "/v1/models"): {"application/json": answers.ModelListAnswer},
    ("get", "/v1/entities"): {"application/json": answers.EntityListAnswer},
    ("get", "/v1/capabilities"): {"application/json": answers.CapabilitiesAnswer},
    ("post", "/v1/jobs"): {"application/json": answers.JobAnswer},
    ("get", "/v1/jobs"): {"application/json": answers.JobListAnswer},
    ("get", "/v1/jobs/{job_id}"): {"application/json": answers.JobAnswer},
    ("post", "/v1/jobs/{job_id}/cancel"): {"application/json": answers.JobAnswer},
    ("get", "/v1/jobs/{job_id}/events"): _STREAM,
    ("get", "/v1/jobs/{job_id}/images/{index}"): _PICTURES,
    ("get", "/livez"): {"application/json": answers.StatusAnswer},
    ("get", "/startupz"): {"application/json": answers.StatusAnswer},
    ("get", "/readyz"): {"application/json": answers.StatusAnswer},
    ("get", "/version"): {"application/json": answers.VersionAnswer},
    ("get", "/metrics"): {"text/plain": None},
}


def _parameter(name: str, place: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "schema": schema}


_PARAMETERS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("get", "/v1/entities"): [
        _parameter("q", "query", type="string", minLength=1, maxLength=MAX_PROMPT)
        | {"required": True},
        _parameter("neighbours", "query", type="integer", minimum=0, maximum=100, default=10),
    ],
    ("post", "/v1/jobs"): [
        _parameter("Idempotency-Key", "header", type="string", pattern="^[!-~]{1,255}$")
    ],
    ("get", "/v1/jobs"): [
        _parameter("limit", "query", type="integer", minimum=1, maximum=100, default=20),
        _parameter("after", "query", type="string"),
    ],
    ("get", "/v1/jobs/{job_id}"): [
        _parameter("wait", "query", type="integer", minimum=0, maximum=60, default=0)
    ],
    ("get", "/v1/jobs/{job_id}/events"): [
        _parameter("Last-Event-ID", "header", type="string", pattern="^[0-9]{1,15}$")
    ],
}
_JOB_PATH = "/v1/jobs/{job_id}"
_LINKS = {  # what can be done with an accepted job
    "read": ("get", _JOB_PATH, {}),
    "cancel": ("post", f"{_JOB_PATH}/cancel", {}),
    "events": ("get", f"{_JOB_PATH}/events", {}),
    "image": ("get", f"{_JOB_PATH}/images/{{index}}", {"index": "0"}),
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document of an application; made once, then kept."""
    if app.openapi_schema is None:
        app.openapi_schema = _complete(
            get_openapi(title=app.title, version=app.version, routes=app.routes)
        )
    return app.openapi_schema


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's, which we never send
        schemas.pop(name, None)
    components["responses"] = {str(status): _problem(status) for status in _statuses()}
    _take(answers.ProblemAnswer, schemas)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method, path, operation, schemas)
    _link_jobs(document["paths"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _complete_operation(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> None:
    place, given = (method, path), operation["responses"]
    told = {status for status in given if not _is_fastapis(given[status])}
    told |= {*_EVERYWHERE, *(["401"] if needs_key(path) else [])}
    problems = {s: {"$ref": f"#/components/responses/{s}"} for s in told if s >= "400"}
    good = {status: given[status] for status in told if status < "400"}
    for response in good.values():
        if place in _ANSWERS:
            response["content"] = {
                kind: {"schema": _schema(model, schemas)} for kind, model in _ANSWERS[place].items()
            }
        response["headers"] = {"X-Request-Id": _header("the id of this request")}
    operation["responses"] = dict(sorted({**good, **problems}.items()))
    operation.setdefault("parameters", []).extend(_PARAMETERS.get(place, []))
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schemas.update(content["schema"].pop("$defs", {}))
    if needs_key(path):
        operation["security"] = [{}, {"key": []}]


def _is_fastapis(response: dict[str, Any]) -> bool:
    """Whether FastAPI added it for its own validation, which our routes do without."""
    return "HTTPValidationError" in str(response)


def _schema(model: type[BaseModel] | None, schemas: dict[str, Any]) -> dict[str, Any]:
    if model is None:
        return {"type": "string"}
    _take(model, schemas)
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _take(model: type[BaseModel], schemas: dict[str, Any]) -> None:
    schema = model.model_json_schema(ref_template=_REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema


def _statuses() -> list[int]:
    return sorted({kind.status for kind in KINDS.values()})


def _problem(status: int) -> dict[str, Any]:
    """One status as a response: its codes, and how long to wait where one should come again."""
    codes = sorted(code for code, kind in KINDS.items() if kind.status == status)
    narrow = {
        "properties": {
            "status": {"const": status},
            "error": {"properties": {"code": {"enum": codes}}},
        }
    }
    schema = {"allOf": [{"$ref": _REFERENCE.format(model="ProblemAnswer")}, narrow]}
    headers = {"X-Request-Id": _header("the id of this request")}
    if status in (429, 503):
        headers["Retry-After"] = _header("seconds to wait", type="integer", minimum=1)
    return {
        "description": ", ".join(codes),
        "headers": headers,
        "content": {"application/problem+json": {"schema": schema}},
    }


def _header(words: str, **schema: Any) -> dict[str, Any]:
    return {"description": words, "required": True, "schema": schema or {"type": "string"}}


def _link_jobs(paths: dict[str, Any]) -> None:
    accepted = paths["/v1/jobs"]["post"]["responses"]["202"]
    accepted["links"] = {
        name: {
            "operationId": paths[path][method]["operationId"],
            "parameters": {"job_id": "$response.body#/id", **more},
        }
        for name, (method, path, more) in _LINKS.items()
    }
