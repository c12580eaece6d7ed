"""From bytes to a checked request: JSON read strictly, then the schema, then the model's limits."""

import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from rapid_diffusion import EntityWeight
from rapid_diffusion.images.label import holds_label
from server.capabilities import Capabilities
from server.errors import Problem, invalid, problem_of_validation, shown
from server.middleware import read_body
from server.schemas import GenerationRequest, ImageFormat

_IMAGE_TYPES: dict[str, ImageFormat] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
}
Asked = TypeVar("Asked", bound=BaseModel)


@dataclass(frozen=True)
class Delivery:
    """How the picture is sent: its format, and whether it is the whole body of the answer."""

    image_format: ImageFormat
    binary: bool


async def read_generation_request(request: Request, limit: int) -> GenerationRequest:
    """The body of `POST /generate`, read and checked; raises what `read_request` raises."""
    return await read_request(request, limit, GenerationRequest)


async def read_request(request: Request, limit: int, kind: type[Asked]) -> Asked:
    """Read and check a body of the given kind.

    Raises `Problem`: unsupported_media_type, body_too_large, invalid_json, invalid_parameter.
    """
    received = request.headers.get("content-type", "")
    if received.partition(";")[0].strip().lower() != "application/json":
        raise Problem("unsupported_media_type", values={"received": shown(received)})
    value = parse_json(await read_body(request, limit))
    if not isinstance(value, dict):
        raise invalid("body", "object_type", value)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise problem_of_validation(error) from None


def parse_json(body: bytes) -> Any:
    """JSON in UTF-8 with every name once; lone surrogates and NaN are left to the schema."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_each_name_once)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, numbers of 4,300 digits
        reason = str(error).encode("utf-8", "backslashreplace").decode()[:200]
    raise Problem("invalid_json", values={"reason": reason})


def query_integer(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query. Raises `Problem`, naming it."""
    given = request.query_params.get(name, str(default))
    if not re.fullmatch(r"-?[0-9]{1,9}", given):
        raise invalid(name, "int_type", given)
    value = int(given)
    if value < least:
        raise invalid(name, "greater_than_equal", value, ge=least)
    if value > most:
        raise invalid(name, "less_than_equal", value, le=most)
    return value


def check_capabilities(request: GenerationRequest, able: Capabilities) -> None:
    """Refuse what this version or this model cannot do. Raises `Problem`, naming the field."""
    _check_model(request, able)
    height, width = final_size(request, able)
    if request.label is not None and request.label.explicit and not holds_label(height, width):
        raise invalid("label.explicit", "label_too_small", True, size=f"{width}x{height}")


def check_partial_images(partial_images: int, request: GenerationRequest) -> None:
    """Refuse to show candidates on their way: nobody knows yet which one is the picture."""
    if partial_images and request.num_candidates > 1:
        raise invalid("partial_images", "single_candidate", partial_images)


def _check_model(request: GenerationRequest, able: Capabilities) -> None:
    if _effective_size(request, able) not in able.sizes:
        raise _unsupported_size(request, able)
    if request.scheduler is not None and request.scheduler not in able.schedulers:
        raise _unsupported("scheduler", request.scheduler, able.schedulers)
    if request.upscale is not None and request.upscale not in able.upscales:
        raise _unsupported("upscale", request.upscale, able.upscales)
    if request.num_candidates > able.most_candidates:
        raise _unsupported("num_candidates", request.num_candidates, [able.most_candidates])
    _check_adapter(request, able)
    if isinstance(request.entities, list) and able.knowledge_version is None:
        raise invalid("entities", "no_knowledge", [e.id for e in request.entities])


def _check_adapter(request: GenerationRequest, able: Capabilities) -> None:
    if request.adapter is None:
        if request.adapter_scale is not None:
            raise invalid("adapter_scale", "no_adapter_named", request.adapter_scale)
    elif not able.adapters:
        raise invalid("adapter", "no_adapters", request.adapter)
    elif request.adapter not in able.adapters:
        raise _unsupported("adapter", request.adapter, list(able.adapters))


def choose_delivery(request: GenerationRequest, accept: str) -> Delivery:
    """`response_format` and `output_format`, unless `Accept` asks for one kind of picture.

    Raises `Problem` where the header and the body contradict each other.
    """
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    pictures = [_IMAGE_TYPES[name] for name in wanted if name in _IMAGE_TYPES]
    if not pictures or any(name in ("application/json", "*/*") for name in wanted):
        return Delivery(request.output_format, request.response_format == "binary")
    if request.response_format == "url":
        expected = ", ".join(pictures)
        raise invalid("response_format", "accept_conflict", "url", expected=expected)
    if "output_format" in request.model_fields_set and request.output_format not in pictures:
        expected = ", ".join(pictures)
        raise invalid("output_format", "accept_conflict", request.output_format, expected=expected)
    if request.num_images_per_prompt != 1:
        raise invalid("num_images_per_prompt", "single_picture", request.num_images_per_prompt)
    given = "output_format" in request.model_fields_set
    return Delivery(request.output_format if given else pictures[0], True)


def pipeline_arguments(request: GenerationRequest, seed: int) -> dict[str, Any]:
    """The request in the pipeline's words; what the caller left out stays out."""
    names = (
        "negative_prompt",
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
        "num_images_per_prompt",
        "num_candidates",
        "scheduler",
        "upscale",
        "adapter",
        "adapter_scale",
        "style",
    )
    chosen = {name: getattr(request, name) for name in names}
    return {name: value for name, value in chosen.items() if value is not None} | {"seed": seed}


def knowledge_argument(request: GenerationRequest) -> bool | list[EntityWeight]:
    """`entities` in the pipeline's words."""
    if isinstance(request.entities, list):
        return [
            EntityWeight(entity=e.id, weight=e.weight, start=e.start, end=e.end)
            for e in request.entities
        ]
    return request.entities == "auto"


def _unsupported(field: str, received: object, allowed: list[Any]) -> Problem:
    problem = invalid(field, "unsupported_value", received, expected=", ".join(map(str, allowed)))
    problem.allowed = allowed
    return problem


def _unsupported_size(request: GenerationRequest, able: Capabilities) -> Problem:
    height, width = _effective_size(request, able)
    given_only = {request.height: "width", request.width: "height"}.get(None)
    widths = {width for _, width in able.sizes}
    allowed = [{"width": width, "height": height} for height, width in able.sizes]
    words = ", ".join(f"{entry['width']}x{entry['height']}" for entry in allowed)
    return Problem(
        "unsupported_size",
        param=given_only or ("height" if width in widths else "width"),
        values={"received": f"{width}x{height}", "allowed": words},
        allowed=allowed,
    )


def _effective_size(request: GenerationRequest, able: Capabilities) -> tuple[int, int]:
    defaults = able.defaults
    return request.height or defaults["height"], request.width or defaults["width"]


def final_size(request: GenerationRequest, able: Capabilities) -> tuple[int, int]:
    """(height, width) of the picture in the answer."""
    scale = request.upscale or able.defaults["upscale"]
    height, width = _effective_size(request, able)
    return height * scale, width * scale


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {shown(name)} stands twice")
        name.encode("utf-8")  # a lone surrogate in a name is a ValueError here
        found[name] = value
    return found
