"""What a worker draws with: a pipeline in this process, or one in a process of its own.

`LocalDevice` and `server.process.RemoteDevice` look the same to the worker.
"""

import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from rapid_diffusion import (
    Cancellation,
    EngineWork,
    EntityWeight,
    GenerationResult,
    Previews,
    RapidDiffusionPipeline,
    in_float32,
)
from rapid_diffusion.errors import NumericalError
from rapid_diffusion.images.convert import Pixels, unit_to_pixels
from server.admission import Measured
from server.capabilities import Capabilities, read_capabilities
from server.lookup import look_up
from server.picture_check import PictureCheck, PictureRefusedError


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
    owner: str = ""  # whose share of the device it is
    hears_steps: bool = True  # somebody wants to know how far it is


@dataclass(frozen=True)
class GraphInUse:
    """A graph that requests are linked to: its version's name and folder."""

    version: str
    path: str


class Device(Protocol):
    """Draws up to `capabilities.concurrency` requests at a time, for as many threads.

    `on_change` is called when readiness may have changed, `on_refused` when a picture was drawn
    that is not to be delivered, `on_work` with what the engine has done since the last call.
    """

    on_change: Callable[[], None]
    on_refused: Callable[[], object]
    on_work: Callable[[EngineWork], None]

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

    def look_up(self, text: str, neighbours: int) -> dict[str, Any]:
        """What `server.lookup.look_up` says of a text; `WorkerLostError` where it died."""

    def reload(self, path: str | None) -> GraphInUse:
        """Exchange the graph for the one at `path`, or for what stands where its own came from.

        Requests in flight keep theirs. Blocks until requests are linked to the new one. Raises
        `CheckpointError` where it cannot be used; the old one stays.
        """

    def close(self) -> None:
        """End it; the last call."""


class LocalDevice:
    """A pipeline in this process, drawing in the worker's threads."""

    is_ready = True
    measured: Sequence[Measured] = ()

    def __init__(self, pipeline: RapidDiffusionPipeline, check: PictureCheck | None = None) -> None:
        self._pipeline, self._check = pipeline, check
        self._drawn: dict[int, Cancellation] = {}  # by identity: requests may be equal
        self.capabilities = read_capabilities(pipeline)
        self.on_change: Callable[[], None] = _nothing
        self.on_refused: Callable[[], object] = _nothing
        self.on_work: Callable[[EngineWork], None] = _nothing

    def draw(self, request: WorkRequest, after_step: AfterStep) -> GenerationResult:
        """As `Device` says."""
        cancellation = self._drawn[id(request)] = Cancellation()
        try:
            after_step(0, 0)
            with cancellation.watching():
                return draw(self._pipeline, request, after_step, self._check)
        except PictureRefusedError:
            self.on_refused()
            raise
        finally:
            del self._drawn[id(request)]
            self.on_work(work_of(self._pipeline))

    def cancel(self, request: WorkRequest) -> None:
        """As `Device` says."""
        if (cancellation := self._drawn.get(id(request))) is not None:
            cancellation.cancel()

    def look_up(self, text: str, neighbours: int) -> dict[str, Any]:
        """As `Device` says."""
        return look_up(self._pipeline.graph, text, neighbours)

    def reload(self, path: str | None) -> GraphInUse:
        """As `Device` says."""
        self._pipeline, graph = exchange_graph(self._pipeline, path)
        self.capabilities = self.capabilities.with_knowledge(graph.version)
        return graph

    def close(self) -> None:
        """Nothing to end."""


def exchange_graph(
    pipeline: RapidDiffusionPipeline, path: str | None
) -> tuple[RapidDiffusionPipeline, GraphInUse]:
    """A pipeline with another graph, and which one it is."""
    other = pipeline.with_knowledge(path)
    assert other.graph is not None, "it was given one"
    return other, GraphInUse(other.graph.version, str(other.graph.path))


def work_of(pipeline: RapidDiffusionPipeline) -> EngineWork:
    """What the pipeline's engine has done since this was called last."""
    return EngineWork([]) if pipeline.engine is None else pipeline.engine.meter.take()


def draw(
    pipeline: RapidDiffusionPipeline,
    request: WorkRequest,
    after_step: AfterStep,
    check: PictureCheck | None = None,
) -> GenerationResult:
    """Call the pipeline; raises what it raises, `NumericalError` for a picture of one colour.

    Such a picture is drawn once more in float32 first, where the model is in something narrower; a
    NaN gets that chance from the engine.

    Raises `PictureRefusedError` where the check refuses one of the pictures; a preview that it
    refuses is left out, for what is not sharp yet says nothing of the picture.

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
            if check is None or check.passes(p.pixels[None])
        ]
        after_step(min(steps, max(1, moved // pictures)), steps, made)

    def call() -> GenerationResult:
        with estimates.watching():
            return pipeline(
                request.prompt,
                **request.arguments,
                knowledge=request.knowledge,
                output_type="numpy",
                callback_on_step_end=tell,
            )

    result = call()
    if _is_flat(result) and pipeline.is_narrow:
        with in_float32():
            result = call()
    if _is_flat(result):
        raise NumericalError("the picture is one flat colour, which no prompt asks for")
    if check is not None:
        began = time.perf_counter()
        check.check(result.images)
        result.timings["check"] = time.perf_counter() - began
    return result


def _is_flat(result: GenerationResult) -> bool:
    return any(image.min() == image.max() for image in result.images)


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


def _nothing(*_: object) -> None:
    pass
