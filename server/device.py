"""What a worker draws with: a pipeline in this process, or one in a process of its own.

`LocalDevice` and `server.process.RemoteDevice` look the same to the worker.
"""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from rapid_diffusion import (
    Cancellation,
    EntityWeight,
    GenerationResult,
    Previews,
    RapidDiffusionPipeline,
)
from rapid_diffusion.errors import NumericalError
from rapid_diffusion.images.convert import Pixels, unit_to_pixels
from server.admission import Measured
from server.capabilities import Capabilities, read_capabilities


@dataclass(frozen=True)
class Preview:
    """Preview `number` of picture `picture` (both from 0): uint8 (h, w, 3), before enlarging."""

    picture: int
    number: int
    pixels: Pixels


class AfterStep(Protocol):
    """Hears of each step, and of the previews that it made."""

    def __call__(self, step: int, steps: int, previews: Sequence[Preview] = ()) -> None: ...


class WorkerLostError(RuntimeError):
    """The worker ended while it drew; the request itself may be sound."""


@dataclass(frozen=True)
class WorkRequest:
    """What the pipeline is asked, in its own names; `arguments` go to its call as they are."""

    request_id: str
    prompt: str
    arguments: dict[str, Any]
    knowledge: bool | list[EntityWeight] = True
    previews: int = 0  # how many of each picture, on its way
    deadline_seconds: float | None = None  # refused where the work before it takes longer


class Device(Protocol):
    """Draws up to `capabilities.concurrency` requests at a time, for as many threads.

    `on_change` is called when readiness may have changed.
    """

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
        """Draw; `WorkerLostError` where it died.

        `after_step(step, steps)` may raise `CanceledError`. Steps count from 1; `after_step(0, 0)`
        comes once `cancel` knows the request.
        """

    def cancel(self, request: WorkRequest) -> None:
        """Stop drawing this very request, at the next step; harmless where it is not drawn."""

    def close(self) -> None:
        """End it; the last call."""


class LocalDevice:
    """A pipeline in this process, drawing in the worker's threads."""

    is_ready = True
    measured: Sequence[Measured] = ()

    def __init__(self, pipeline: RapidDiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._drawn: dict[int, Cancellation] = {}  # by identity: requests may be equal
        self.capabilities = read_capabilities(pipeline)
        self.on_change: Callable[[], None] = _nothing

    def draw(self, request: WorkRequest, after_step: AfterStep) -> GenerationResult:
        """As `Device` says."""
        cancellation = self._drawn[id(request)] = Cancellation()
        try:
            after_step(0, 0)
            with cancellation.watching():
                return draw(self._pipeline, request, after_step)
        finally:
            del self._drawn[id(request)]

    def cancel(self, request: WorkRequest) -> None:
        """As `Device` says."""
        if (cancellation := self._drawn.get(id(request))) is not None:
            cancellation.cancel()

    def close(self) -> None:
        """Nothing to end."""


def draw(
    pipeline: RapidDiffusionPipeline, request: WorkRequest, after_step: AfterStep
) -> GenerationResult:
    """Call the pipeline; raises what it raises, `NumericalError` for a picture of one colour.

    Pictures of a request may go one after the other: a step is done when all of them have done it.
    """
    wanted = request.arguments
    pictures = wanted.get("num_images_per_prompt", 1) * wanted.get("num_candidates", 1)
    shown_after = _shown_after(pipeline, request)
    estimates = Previews(shown_after)
    moved = 0

    def tell(_step: int, steps: int, latents: Sized) -> None:
        nonlocal moved
        moved += len(latents)
        made = [
            p
            for e in estimates.take()
            for p in _preview(pipeline, e.latents, e.place, shown_after.index(e.step))
        ]
        after_step(min(steps, max(1, moved // pictures)), steps, made)

    with estimates.watching():
        result = pipeline(
            request.prompt,
            **request.arguments,
            knowledge=request.knowledge,
            output_type="numpy",
            callback_on_step_end=tell,
        )
    for image in result.images:
        if image.min() == image.max():
            raise NumericalError("the picture is one flat colour, which no prompt asks for")
    return result


def preview_steps(previews: int, steps: int) -> list[int]:
    """After which steps to look: evenly spread, never after the last; fewer where steps are few."""
    found = {round(steps * (number + 1) / (previews + 1)) for number in range(previews)}
    return sorted(step for step in found if 0 < step < steps)


def _shown_after(pipeline: RapidDiffusionPipeline, request: WorkRequest) -> list[int]:
    if not request.previews:
        return []
    name = "num_inference_steps"
    return preview_steps(
        request.previews, request.arguments.get(name) or pipeline.default_parameters[name]
    )


def _preview(
    pipeline: RapidDiffusionPipeline, latents: Tensor, picture: int, number: int
) -> list[Preview]:
    """The picture of an estimate; none of a NaN, which the engine sees to itself."""
    try:
        decoded = pipeline.decode(latents[None])
    except NumericalError:
        return []
    return [Preview(picture, number, unit_to_pixels(decoded)[0])]


def _nothing() -> None:
    pass
