"""What the engine is given for one picture, and the ticket it answers with."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rapid_diffusion.denoising.samplers import SamplerTable
from rapid_diffusion.errors import CanceledError, InvalidRequestError
from rapid_diffusion.seeds import generator_seed
from rapid_diffusion.text.encoder import TextStates

#: Called once with the clean estimate (C, h, w) of a row.
Preview = Callable[[Tensor], None]


@dataclass(frozen=True, eq=False)
class Watch:
    """Who looks on: `tell(step, clean estimate (C, h, w))` after each of `steps` (from 1).

    It is called on the thread that steps the engine. Where it raises, this row alone fails.
    """

    steps: Collection[int]
    tell: Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans, 2022): D + (scale - 1) · (D - D of `negative`)."""

    scale: float
    negative: TextStates


@dataclass(frozen=True, eq=False)
class RowRequest:
    """One picture to denoise; under guidance it takes two rows of the denoiser's batch.

    latents (C, h, w): where it starts, `table.start` · noise or `table.noised`; states: hidden
    (L, D) and mask (L,) of its sentence, as of `guidance.negative`; seed: of the noise that the
    sampler adds (of no use to one that adds none); in_float32: whatever the weights are kept in.
    """

    latents: Tensor
    states: TextStates
    table: SamplerTable
    guidance: Guidance | None = None
    seed: int | None = None
    watch: Watch | None = None
    in_float32: bool = False

    def __post_init__(self) -> None:
        if self.latents.ndim != 3:
            shape = tuple(self.latents.shape)
            raise InvalidRequestError("latents", f"of shape {shape}; (C, h, w) is wanted")
        for states in self.sentences:
            if states.hidden.ndim != 2 or states.mask.shape != states.hidden.shape[:1]:
                shapes = tuple(states.hidden.shape), tuple(states.mask.shape)
                raise InvalidRequestError("states", f"of shapes {shapes}; (L, D), (L,) are wanted")
        widths = {states.hidden.shape[1] for states in self.sentences}
        if len(widths) > 1:
            raise InvalidRequestError("guidance", f"states of widths {widths}; one is wanted")
        if self.table.is_stochastic and self.seed is None:
            raise InvalidRequestError(
                "seed", "None; this sampler adds noise, give the row's seed for its generator"
            )

    @property
    def sentences(self) -> list[TextStates]:
        """The states of its rows: the sentence's and, under guidance, the negative one's."""
        return [self.states] if self.guidance is None else [self.states, self.guidance.negative]

    @property
    def key(self) -> tuple[int, ...]:
        """Its size bucket: C, h, w, the longest sentence's L, and D."""
        length = max(states.hidden.shape[0] for states in self.sentences)
        return (*self.latents.shape, length, self.states.hidden.shape[1])


@dataclass(eq=False)
class Ticket:
    """One picture on its way: `latents` are its present ones and, once `done`, its result.

    `step` counts what is done; `error` says why there will be no picture. Every thread may read
    it, `cancel` it and ask for a `preview`; the engine's thread alone changes the rest.
    """

    request: RowRequest
    due: int = 0  # by the engine's steps; those with lower numbers go first
    step: int = 0
    done: bool = False
    latents: Tensor | None = None
    error: Exception | None = None
    canceled: bool = False
    retried: bool = False
    previews: list[Preview] = field(default_factory=list)

    def cancel(self) -> None:
        """Give the picture up at the next step boundary; one that is done stays as it is."""
        self.canceled = True

    def preview(self, callback: Preview) -> None:
        """Hand the clean estimate after the next step to `callback`, on the engine's thread.

        Where that raises, this row alone fails, with that error.
        """
        self.previews.append(callback)

    def end(self, error: Exception | None = None) -> None:
        """The engine's: with or without a picture, this was it."""
        self.error, self.done = error, True
        self.latents = None if error is not None else self.latents

    def canceled_error(self) -> CanceledError:
        """What the caller hears who gave it up."""
        return CanceledError(f"canceled after step {self.step} of {len(self.request.table)}")


def row_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise of one picture: from its own generator on the CPU, whatever its neighbours are."""
    return next(noise_stream(seed, shape))


def noise_stream(seed: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """`row_noise`, and then the noise of one step after the other, from the same generator."""
    generator = torch.Generator("cpu").manual_seed(generator_seed(seed))
    while True:
        yield torch.randn(shape, generator=generator)
