"""What a request may hold: one schema of strict types, closed objects and named ranges."""

import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rapid_diffusion.images.label import Position

MAX_SEED = 2**53 - 1  # the largest integer that every JSON client reads exactly
MAX_PROMPT = 2000
MAX_ENTITIES = 32
ImageFormat = Literal["png", "jpeg", "webp"]

_PYDANTIC = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


def _refuse_control_characters(text: str) -> str:
    for character in text:
        if unicodedata.category(character) == "Cc" and character not in "\t\n\r":
            code = f"{ord(character):04X}"
            raise PydanticCustomError("control_character", "control character", {"code": code})
    return text


def _refuse_blank(text: str) -> str:
    # str.strip knows Unicode's blanks; zero-width characters (category Cf) show nothing either.
    if text and not any(not c.isspace() and unicodedata.category(c) != "Cf" for c in text):
        raise PydanticCustomError("blank", "blank")
    return _refuse_control_characters(text)


class EntityRequest(BaseModel):
    """One entity the caller names: its key, how strongly it counts, and where it stands."""

    model_config = _PYDANTIC

    id: str = Field(min_length=1, max_length=200)
    weight: float = Field(1.0, ge=0.0, le=2.0, allow_inf_nan=False)
    start: int | None = Field(None, ge=0, le=MAX_PROMPT)
    end: int | None = Field(None, ge=1, le=MAX_PROMPT)


class LabelRequest(BaseModel):
    """The label that people see; the one in the metadata is always there.

    `explicit`: None leaves it to the server, false needs its permission. `position`: a corner.
    """

    model_config = _PYDANTIC

    explicit: bool | None = None
    position: Position | None = None

    @model_validator(mode="after")
    def _nothing_has_no_place(self) -> Self:
        if self.explicit is False and self.position is not None:
            raise PydanticCustomError("label_nowhere", "label", {"field": "label.position"})
        return self


def _entities_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "word"
    return "list" if isinstance(value, list) else None


Entities = Annotated[
    Annotated[Literal["auto", "off"], Tag("word")]
    | Annotated[list[EntityRequest], Field(min_length=1, max_length=MAX_ENTITIES), Tag("list")],
    Discriminator(_entities_tag, "entities_type", "entities", {}),
]


class GenerationRequest(BaseModel):
    """The body of `POST /generate`. `None` means the model's default.

    `width` and `height` are pixels of the drawing, before `upscale`; `start` and `end` of entities
    are character offsets in `prompt`.
    """

    model_config = _PYDANTIC

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT)
    width: int | None = Field(None, ge=1, le=16_384)
    height: int | None = Field(None, ge=1, le=16_384)
    num_inference_steps: int | None = Field(None, ge=1, le=100)
    guidance_scale: float | None = Field(None, ge=0.0, le=30.0, allow_inf_nan=False)
    num_images_per_prompt: int = Field(1, ge=1, le=8)
    num_candidates: int = Field(1, ge=1, le=16, description="draw so many a picture, keep the best")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    scheduler: str | None = Field(None, min_length=1, max_length=64)
    upscale: int | None = Field(None, ge=1, le=16)
    adapter: str | None = Field(None, min_length=1, max_length=64)
    adapter_scale: float | None = Field(None, ge=0.0, le=2.0, allow_inf_nan=False)
    style: str | None = Field(None, max_length=64, description="told to a prompt that names none")
    output_format: ImageFormat = "png"
    output_quality: int = Field(95, ge=1, le=100, description="of jpeg and webp; png is lossless")
    response_format: Literal["b64_json", "url", "binary"] = "b64_json"
    entities: Entities = "auto"
    label: LabelRequest | None = None
    deadline_ms: int | None = Field(None, ge=1, le=3_600_000)

    @field_validator("prompt")
    @classmethod
    def _prompt_shows_something(cls, value: str) -> str:
        return _refuse_blank(value)

    @field_validator("negative_prompt", "style")
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        return value if value is None else _refuse_control_characters(value)

    @field_validator("entities")
    @classmethod
    def _spans_are_whole(
        cls, value: Literal["auto", "off"] | list[EntityRequest]
    ) -> Literal["auto", "off"] | list[EntityRequest]:
        if isinstance(value, list) and any((e.start is None) != (e.end is None) for e in value):
            raise PydanticCustomError("span_incomplete", "span")
        return value

    @model_validator(mode="after")
    def _spans_lie_inside_the_prompt(self) -> Self:
        for entity in self.entities if isinstance(self.entities, list) else ():
            if entity.start is None or entity.end is None:
                continue
            if not entity.start < entity.end <= len(self.prompt):
                raise PydanticCustomError(
                    "span_outside", "span", {"length": len(self.prompt), "field": "entities"}
                )
        return self

    @model_validator(mode="after")
    def _binary_is_one_picture(self) -> Self:
        if self.response_format == "binary" and self.num_images_per_prompt != 1:
            raise PydanticCustomError(
                "single_picture", "single", {"field": "num_images_per_prompt"}
            )
        return self
