"""The body of OpenAI's `POST /v1/images/generations`; what is not OpenAI's passes to our own."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.capabilities import Capabilities
from server.errors import Problem, invalid, problem_of_validation
from server.reading import check_partial_images
from server.schemas import GenerationRequest, ImageFormat


class OpenAIRequest(BaseModel):
    """OpenAI's fields. All others, as its SDK sends them by `extra_body`, are `POST /generate`'s.

    Only the values of `quality`, `background`, `style` and `moderation` are taken that say nothing.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, protected_namespaces=())

    prompt: str = Field(min_length=1, max_length=2000)
    model: str | None = None
    n: int | None = Field(None, ge=1, le=8)
    size: str | None = Field(None, max_length=20)
    response_format: Literal["b64_json", "url"] | None = None
    output_format: ImageFormat | None = None
    output_compression: int | None = Field(None, ge=1, le=100)
    stream: bool | None = None
    partial_images: int | None = Field(None, ge=0, le=3)
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    style: None = None
    user: str | None = Field(None, max_length=256, description="taken and not looked at")


_OURS = {"n": "num_images_per_prompt", "output_compression": "output_quality"}
_SAME = ("prompt", "output_format", "response_format")


def generation_of(asked: OpenAIRequest, able: Capabilities) -> GenerationRequest:
    """The same request in our own words. Raises `Problem`, naming OpenAI's field."""
    if asked.model not in (None, able.name):
        raise _unsupported("model", asked.model, [able.name])
    if asked.partial_images and not asked.stream:
        raise invalid("partial_images", "no_stream", asked.partial_images)
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    ours: dict[str, Any] = dict(asked.model_extra or {})
    for name in (*_SAME, *_OURS):
        if given.get(name) is not None:
            ours[_OURS.get(name, name)] = given[name]
    ours |= _size_of(asked, ours.get("upscale"), able)
    try:
        request = GenerationRequest.model_validate(ours)
    except ValidationError as error:
        raise problem_of_validation(error) from None
    check_partial_images(asked.partial_images or 0, request)
    return request


def _size_of(asked: OpenAIRequest, upscale: Any, able: Capabilities) -> dict[str, int]:
    """Our size and upscale from OpenAI's final size."""
    if asked.size is None or asked.size == "auto":
        return {}
    scales = [upscale] if upscale in able.upscales else able.upscales
    found = {
        f"{width * scale}x{height * scale}": {"width": width, "height": height, "upscale": scale}
        for scale in scales
        for height, width in able.sizes
    }
    if asked.size in found:
        return found[asked.size]
    values = {"received": asked.size[:40], "allowed": ", ".join(found)}
    raise Problem("unsupported_size", param="size", values=values, allowed=list(found))


def _unsupported(field: str, received: object, allowed: list[Any]) -> Problem:
    problem = invalid(field, "unsupported_value", received, expected=", ".join(allowed))
    problem.allowed = allowed
    return problem
