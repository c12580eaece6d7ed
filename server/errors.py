"""Problems: what goes wrong, told as `application/problem+json` (RFC 9457) with OpenAI's object.

`PROBLEM_OF_ERROR` is the one table from the library's errors to problems; everything that is not
in it is an internal error, of which the client learns the request's id and nothing else.
"""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from fastapi import Request, Response
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from rapid_diffusion.errors import (
    ArtifactError,
    CanceledError,
    CheckpointError,
    InvalidRequestError,
    MissingDependencyError,
    NumericalError,
    OutputError,
    RapidDiffusionError,
)
from server.messages import KINDS
from server.picture_check import PictureRefusedError
from server.reasons import REASONS, Language

PROBLEM_OF_ERROR: dict[type[Exception], str] = {
    RapidDiffusionError: "internal",
    InvalidRequestError: "invalid_parameter",
    PictureRefusedError: "content_filtered",
    CheckpointError: "internal",
    ArtifactError: "internal",
    MissingDependencyError: "missing_dependency",
    NumericalError: "internal",
    OutputError: "internal",
    CanceledError: "canceled",
    torch.OutOfMemoryError: "out_of_device_memory",
    MemoryError: "out_of_device_memory",
}
FIELD_OF_PARAMETER = {"knowledge": "entities", "generator": "seed"}  # the pipeline's name -> ours
_UNION_TAGS = {"word", "list"}
_RECEIVED: dict[Language, str] = {"en": "; received ", "zh": "；收到 "}
_MAX_ERRORS = 20  # a body of ten thousand wrong fields gets a short answer all the same

logger = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818  RFC 9457's own word
    """One problem: its kind in `messages.KINDS`, the field it is about, and the facts of it.

    `values` fill the words; `allowed` and `retry_after` (seconds) also go to the client as data.
    """

    def __init__(
        self,
        code: str,
        *,
        param: str | None = None,
        values: Mapping[str, Any] | None = None,
        allowed: list[Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code)
        self.code, self.param, self.allowed, self.retry_after = code, param, allowed, retry_after
        self.values = dict(values or {})

    @property
    def status(self) -> int:
        """The HTTP status it is answered with."""
        return KINDS[self.code].status


def problem_of_error(error: BaseException) -> Problem:
    """The problem a failed run is answered with; the nearest class in the table decides."""
    if isinstance(error, Problem):
        return error
    known = (PROBLEM_OF_ERROR[c] for c in type(error).__mro__ if c in PROBLEM_OF_ERROR)
    code = next(known, "internal")
    if isinstance(error, InvalidRequestError):
        param = FIELD_OF_PARAMETER.get(error.field, error.field)
        reason = str(error).removeprefix(f"{error.field}: ")
        return Problem(code, param=param, values={"reason": f"{param}: {reason}"})
    return Problem(code, retry_after=2.0 if KINDS[code].status == 503 else None)


def problem_of_validation(error: ValidationError) -> Problem:
    """The first thing pydantic found wrong; the first twenty are in `values["errors"]`."""
    found = error.errors(include_url=False)[:_MAX_ERRORS]
    errors: list[dict[str, Any]] = [{"param": _field(e), "error": e} for e in found]
    return Problem("invalid_parameter", param=errors[0]["param"], values={"errors": errors})


def invalid(param: str, reason: str, received: Any, **context: Any) -> Problem:
    """A parameter refused by our own check; `reason` is a key of `reasons.REASONS`."""
    error = {"type": reason, "input": received, "ctx": context, "msg": reason}
    return Problem(
        "invalid_parameter", param=param, values={"errors": [{"param": param, "error": error}]}
    )


def shown(value: Any) -> str:
    """A received value as it is quoted in a message: short, printable, encodable."""
    text = repr(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 60 else f"{text[:60]}… ({len(text)} characters)"


def language_of(request: Request) -> Language:
    """Chinese or English, whichever `Accept-Language` weighs more; English when it is silent."""
    weights: dict[str, float] = {}
    for part in request.headers.get("accept-language", "").lower().split(","):
        name, _, weight = part.partition(";")
        main = name.strip().split("-")[0]
        weights[main] = max(weights.get(main, 0.0), _weight(weight))
    return "zh" if weights.get("zh", 0.0) > weights.get("en", 0.0) else "en"


def error_object(
    code: str, param: str | None, values: Mapping[str, Any], language: Language
) -> dict[str, Any]:
    """OpenAI's object for one problem."""
    kind = KINDS[code]
    message = kind.detail[language].format(**values)
    return {"message": message, "type": kind.error_type, "code": code, "param": param}


def problem_response(request: Request, problem: Problem) -> Response:
    """The answer for one problem, in the client's language."""
    language, kind = language_of(request), KINDS[problem.code]
    request_id = getattr(request.state, "request_id", "")
    details = [_explained(e, language) for e in problem.values.get("errors", [])]
    values = {"reason": details[0]["detail"]} if details else problem.values
    error = error_object(problem.code, problem.param, values, language)
    body: dict[str, Any] = {
        "type": f"urn:rapid-diffusion:problem:{problem.code}",
        "title": kind.title[language],
        "status": kind.status,
        "detail": error["message"],
        "instance": f"urn:rapid-diffusion:request:{request_id}",
        "error": error,
    }
    if details:
        body["errors"] = details
    if problem.allowed is not None:
        body["allowed"] = problem.allowed
    headers = {"Content-Language": language, "Vary": "Accept-Language", "X-Request-Id": request_id}
    if kind.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after is not None:
        body["retry_after_ms"] = round(problem.retry_after * 1000)
        headers["Retry-After"] = str(max(1, round(problem.retry_after)))
    content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, kind.status, headers, "application/problem+json")


async def answer_problem(request: Request, problem: Exception) -> Response:
    """FastAPI's handler for `Problem`."""
    assert isinstance(problem, Problem)
    return problem_response(request, problem)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405), told as problems."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        # Each of several routes of one path knows its own method only; the document knows all.
        allowed = ", ".join(_methods_at(request.app.openapi(), request.url.path))
        allowed = allowed or (error.headers or {}).get("Allow", "?")
        values = {"received": request.method, "allowed": allowed}
        response = problem_response(request, Problem("method_not_allowed", values=values))
        response.headers["Allow"] = values["allowed"]
        return response
    return problem_response(request, Problem("not_found", values={"received": request.url.path}))


async def answer_no_storage(request: Request, error: Exception) -> Response:
    """The journal could not be read or written, whoever asked: the disk, or another's lock."""
    logger.error("the journal does not answer", exc_info=error)
    values = {"reason": "disk"}
    return problem_response(request, Problem("storage_unavailable", values=values, retry_after=5.0))


async def answer_nobody(request: Request, _error: Exception) -> Response:
    """The client left while its body was read: nobody hears the answer, the metrics count it."""
    return problem_response(request, Problem("canceled"))


async def answer_crash(request: Request, _error: Exception) -> Response:
    """Anything unforeseen: the id only. Starlette raises it again, so that the log has it."""
    response = problem_response(request, Problem("internal"))
    response.headers["Connection"] = "close"  # uvicorn does, and the client had better know
    return response


def _methods_at(document: dict[str, Any], path: str) -> list[str]:
    """The methods that a path of the OpenAPI document is answered for."""
    found: set[str] = set()
    for template, operations in document["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path):
            found |= {
                method.upper()
                for method in operations
                if method in ("get", "put", "post", "delete", "patch")
            }
    return sorted(found)


def _weight(text: str) -> float:
    name, _, number = text.strip().partition("=")
    try:
        return float(number) if name == "q" else 1.0
    except ValueError:
        return 0.0


def _field(error: ErrorDetails) -> str:
    """`entities[0].weight` from pydantic's location; checks of the whole body name it in ctx."""
    if "field" in error.get("ctx", {}):
        return str(error["ctx"]["field"])
    name = ""
    for part in error["loc"]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part not in _UNION_TAGS:
            name += f".{part}" if name else str(part)
    return shown(name)[1:-1] or "body"


def _explained(entry: Mapping[str, Any], language: Language) -> dict[str, str]:
    """One wrong field in words: its name, what is allowed, what was received."""
    error, param = entry["error"], entry["param"]
    template = REASONS.get(error["type"], {}).get(language)
    wanted = template.format(**error.get("ctx", {})) if template else error["msg"]
    received = "" if error["type"] == "missing" else _RECEIVED[language] + shown(error["input"])
    return {"param": param, "detail": f"{param} {wanted}{received}"}
