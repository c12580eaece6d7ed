"""What answers hold, for the OpenAPI document: answers are checked against it by tests only.

Objects stay open: a client must not fall over a field that a later version adds.
"""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, Field

from server.journal import STATUSES
from server.messages import KINDS

_SHA256 = Field(pattern=r"^[0-9a-f]{64}$")


def _one_of(words: Iterable[str]) -> dict[str, Any]:
    return {"enum": sorted(words)}


class ErrorObject(BaseModel):
    """OpenAI's object for one problem."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    code: str = Field(json_schema_extra=_one_of(KINDS))
    param: str | None


class FieldProblem(BaseModel):
    """One field that is wrong, and why."""

    param: str
    detail: str


class ProblemAnswer(BaseModel):
    """`application/problem+json` (RFC 9457) with OpenAI's object inside."""

    type: str = Field(pattern=r"^urn:rapid-diffusion:problem:")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str = Field(pattern=r"^urn:rapid-diffusion:request:")
    error: ErrorObject
    errors: list[FieldProblem] = Field(default=[], max_length=20)
    allowed: list[Any] = []
    retry_after_ms: int = Field(default=0, ge=0)


class ChoiceAnswer(BaseModel):
    """The drawings that a picture was chosen from, in order: their seeds and scores."""

    count: int = Field(ge=2)
    chosen: int = Field(ge=0)
    seeds: list[int]
    scores: list[float]


class ImageAnswer(BaseModel):
    """One picture: its file in base64, or its address where one was asked for, and in a job."""

    seed: int = Field(ge=0)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    mime_type: Literal["image/png", "image/jpeg", "image/webp"]
    pixel_sha256: str = _SHA256
    b64_json: str = ""
    url: str = ""
    expires_at: int = Field(default=0, ge=0, description="seconds since 1970")
    candidates: ChoiceAnswer | None = None


class ModelFacts(BaseModel):
    """The model that drew."""

    name: str
    digest: str = Field(pattern=r"^sha256:")
    license: str


class EntityAnswer(BaseModel):
    """One entity that was found in the prompt, or named by the caller."""

    surface: str
    start: int
    end: int
    id: str
    name: str
    score: float
    weight: float


class CandidateAnswer(BaseModel):
    """One meaning of a name, and how likely it is before the sentence is looked at."""

    id: str
    prior: float = Field(gt=0, le=1)


class UnlinkedAnswer(BaseModel):
    """A name that the graph knows, and that stands for no entity in this sentence."""

    surface: str
    start: int
    end: int
    reason: Literal["below_threshold", "too_many"]
    candidates: list[CandidateAnswer] = Field(max_length=10)


class GenerationAnswer(BaseModel):
    """Pictures, and how they were made."""

    id: str
    created: int
    model: ModelFacts
    data: list[ImageAnswer] = Field(min_length=1, max_length=8)
    parameters: dict[str, Any]
    truncated: dict[str, Any] | None
    unknown: list[str]
    entities: list[EntityAnswer]
    unlinked: list[UnlinkedAnswer]
    knowledge: dict[str, str | None]
    repro: dict[str, str]
    provenance: dict[str, Any]
    timings_ms: dict[str, float]


class OpenAIImageAnswer(ImageAnswer):
    """The same with the prompt that was drawn: the names of entities in place of what was said."""

    revised_prompt: str


class OpenAIAnswer(GenerationAnswer):
    """The same with OpenAI's fields beside."""

    data: list[OpenAIImageAnswer] = Field(min_length=1, max_length=8)  # type: ignore[assignment]
    size: str = Field(pattern=r"^[0-9]+x[0-9]+$")
    output_format: Literal["png", "jpeg", "webp"]


class ProgressAnswer(BaseModel):
    """How many steps of a job are done."""

    step: int = Field(ge=0)
    steps: int = Field(ge=1)


class JobAnswer(BaseModel):
    """One job; times are seconds since 1970. The last two stand in one that is not over."""

    id: str = Field(pattern=r"^job_[0-9a-f]{32}$")
    object: Literal["job"]
    status: str = Field(json_schema_extra=_one_of(STATUSES))
    created: float
    started: float | None
    finished: float | None
    attempts: int = Field(ge=0)
    priority: int
    seed: int
    request: dict[str, Any]
    queue_position: int | None
    error: ErrorObject | None
    result: GenerationAnswer | None
    estimated_start_ms: int = Field(default=0, ge=0)
    progress: ProgressAnswer | None = None


class JobListAnswer(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[JobAnswer]
    has_more: bool


class ModelListAnswer(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[dict[str, Any]] = Field(min_length=1)


class NeighbourAnswer(BaseModel):
    """A fact of an entity; `id` is null where its object is a text."""

    relation: str
    id: str | None
    name: str


class FoundEntityAnswer(BaseModel):
    """An entity that a text mentions."""

    surface: str
    start: int
    end: int
    id: str
    name: str
    score: float
    candidates: list[CandidateAnswer] = Field(max_length=10)
    neighbours: list[NeighbourAnswer] = Field(max_length=100)


class EntityListAnswer(BaseModel):
    """What the graph finds in a text."""

    object: Literal["list"]
    query: str
    knowledge: dict[str, str | None]
    entities: list[FoundEntityAnswer]
    unlinked: list[UnlinkedAnswer]


class VersionAnswer(BaseModel):
    """What pixels depend on besides the request."""

    version: str
    model: ModelFacts
    knowledge: dict[str, str | None]
    engine: str


class CapabilitiesAnswer(BaseModel):
    """What can be asked of the loaded model."""

    version: str
    model: ModelFacts
    device: str
    sizes: list[dict[str, int]] = Field(min_length=1)
    upscales: list[int]
    schedulers: list[str]
    styles: list[str]
    adapters: list[dict[str, str]]
    output_formats: list[str]
    response_formats: list[str]
    defaults: dict[str, Any]
    limits: dict[str, Any]
    knowledge: dict[str, str | None]
    attributions: str


class EventAnswer(BaseModel):
    """One server-sent event of a stream; `data` is a JSON object, `id` stands in those of jobs."""

    event: str
    data: str
    id: str = Field(default="1", pattern="^[0-9]+$")


class StatusAnswer(BaseModel):
    """A probe's answer."""

    status: Literal["alive", "started", "ready"]
