"""What a worker draws with: a pipeline in this process, or one in a process of its own.

`LocalDevice` and `server.process.RemoteDevice` look the same to the worker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rapid_diffusion import EntityWeight, GenerationResult, RapidDiffusionPipeline
from rapid_diffusion.errors import NumericalError
from server.admission import Measured
from server.capabilities import Capabilities, read_capabilities

AfterStep = Callable[[int, int], None]


class WorkerLostError(RuntimeError):
    """The worker ended while it drew; the request itself may be sound."""


@dataclass(frozen=True)
class WorkRequest:
    """What the pipeline is asked, in its own names; `arguments` go to its call as they are."""

    request_id: str
    prompt: str
    arguments: dict[str, Any]
    knowledge: bool | list[EntityWeight] = True
    deadline_seconds: float | None = None  # refused where the work before it takes longer


class Device(Protocol):
    """Draws one request at a time; `on_change` is called when readiness may have changed."""

    on_change: Callable[[], None]

    @property
    def measured(self) -> Sequence[Measured]:
        """Runs that were timed when it started."""

    @property
    def capabilities(self) -> Capabilities:
        """What can be asked of it."""

    @property
    def is_ready(self) -> bool:
        """Whether a request would be drawn now."""

    def draw(self, request: WorkRequest, after_step: AfterStep) -> GenerationResult:
        """Draw; `after_step(step, steps)`, from 1, may raise. `WorkerLostError` where it died."""

    def cancel(self) -> None:
        """Stop what is being drawn at its next step; harmless where nothing is."""

    def close(self) -> None:
        """End it; the last call."""


class LocalDevice:
    """A pipeline in this process; the worker's thread draws, and its step callback cancels."""

    is_ready = True
    measured: Sequence[Measured] = ()

    def __init__(self, pipeline: RapidDiffusionPipeline) -> None:
        self._pipeline = pipeline
        self.capabilities = read_capabilities(pipeline)
        self.on_change: Callable[[], None] = _nothing

    def draw(self, request: WorkRequest, after_step: AfterStep) -> GenerationResult:
        """As `Device` says."""
        return draw(self._pipeline, request, after_step)

    def cancel(self) -> None:
        """Nothing to do: `after_step` raises where the worker was asked to stop."""

    def close(self) -> None:
        """Nothing to end."""


def draw(
    pipeline: RapidDiffusionPipeline, request: WorkRequest, after_step: AfterStep
) -> GenerationResult:
    """Call the pipeline; raises what it raises, `NumericalError` for a picture of one colour."""
    result = pipeline(
        request.prompt,
        **request.arguments,
        knowledge=request.knowledge,
        output_type="numpy",
        callback_on_step_end=lambda step, steps, _latents: after_step(step + 1, steps),
    )
    for image in result.images:
        if image.min() == image.max():
            raise NumericalError("the picture is one flat colour, which no prompt asks for")
    return result


def _nothing() -> None:
    pass
