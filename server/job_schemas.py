"""The body of `POST /v1/jobs`: that of `POST /generate`, and what only a queue can keep."""

from pydantic import Field

from server.capabilities import Capabilities
from server.errors import invalid
from server.reading import check_capabilities, check_partial_images
from server.schemas import MAX_SEED, GenerationRequest


class JobRequest(GenerationRequest):
    """A job. Of those that wait, higher `priority` goes first; `deadline_ms` counts from now."""

    priority: int = Field(0, ge=-10, le=10)
    partial_images: int = Field(0, ge=0, le=3, description="previews of each picture, as events")
    webhook: str | None = Field(
        None, min_length=1, max_length=2000, description="URL that is told of the job's end"
    )


def check_job(asked: JobRequest, able: Capabilities) -> None:
    """Refuse what would fail hours later. Raises `Problem`, naming the field.

    A job's pictures are always files with addresses: `response_format` may say `url`, and the
    default is not held against the caller.
    """
    if asked.response_format == "binary":
        raise invalid("response_format", "unsupported_value", "binary", expected="url, b64_json")
    check_capabilities(asked.model_copy(update={"response_format": "b64_json"}), able)
    check_partial_images(asked.partial_images, asked)
    most = MAX_SEED - asked.num_images_per_prompt + 1
    if asked.seed is not None and asked.seed > most:
        raise invalid("seed", "less_than_equal", asked.seed, le=most)
