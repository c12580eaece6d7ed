"""What a student of few steps learns: wherever it is on a step's way, say where the step ends.

Multistep consistency (Heek et al., 2024, https://arxiv.org/abs/2403.06807): a student of n steps
has n stretches of time. Noise is added to a picture; the teacher, with guidance, goes on a little;
what the student, without guidance, says from there leads to the end of the stretch, and what it
says before the teacher moved must lead to the same end. Times run from 1 = noise to 0 = picture,
as flow matching has them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rapid_diffusion.autoencoder import Autoencoder
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.schedules import TIMESTEPS, flow_times
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, TextStates
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.latents import AnyExamples, open_latents
from rapid_diffusion.training.stages import Stage, encode_short


@dataclass(frozen=True)
class Teacher:
    """A fixed denoiser that draws with guidance: how, and the states (1, L, D) of no sentence.

    It takes `steps` at least, and two for each of the student's.
    """

    denoiser: Denoiser
    scale: float
    shift: float
    blank: TextStates
    steps: int = 8

    @torch.no_grad()
    def clean(self, latents: Tensor, times: Tensor, states: TextStates) -> Tensor:
        """Its clean estimate (B, C, h, w) at `times` (B,): D + (scale - 1) (D - D of blank)."""
        if self.scale == 1.0:
            return clean_estimate(self.denoiser, latents, times, states)
        rows = len(latents)
        both = TextStates(
            torch.cat([states.hidden, self.blank.hidden.expand(rows, -1, -1)]),
            torch.cat([states.mask, self.blank.mask.expand(rows, -1)]),
        )
        clean = clean_estimate(self.denoiser, latents.repeat(2, 1, 1, 1), times.repeat(2), both)
        told, empty = clean.chunk(2)
        return empty + self.scale * (told - empty)

    def times(self, steps: int) -> tuple[Tensor, int]:
        """Where it stops (N + 1,), from 1 to 0, and how many of its steps are one of `steps`."""
        inner = max(2, -(-self.steps // steps))
        return torch.tensor(flow_times(steps * inner, self.shift), dtype=torch.float32), inner


def clean_estimate(
    denoiser: Callable[..., Tensor],
    latents: Tensor,
    times: Tensor,
    states: TextStates,
    drafts: Tensor | None = None,
) -> Tensor:
    """D = x - t · velocity of latents x (B, C, h, w) at times t (B,), without guidance."""
    given = latents.contiguous(memory_format=torch.channels_last)
    velocity = denoiser(given, TIMESTEPS * times, states.hidden, states.mask, drafts)
    return latents - times[:, None, None, None] * velocity.float()


def euler(latents: Tensor, clean: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """From times `here` to `there`, both (B,): x' = r x + (1 - r) D with r = there / here."""
    ratio = (there / here)[:, None, None, None]
    return ratio * latents + (1 - ratio) * clean


def leading(latents: Tensor, reached: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """The clean estimate D by which `euler` comes from `latents` to `reached`."""
    ratio = (there / here)[:, None, None, None]
    return (reached - ratio * latents) / (1 - ratio)


@dataclass(frozen=True)
class Moment:
    """Noisy latents (B, C, h, w) of `states` at `here`, `there` being the teacher's next stop.

    `end` is that of the stretch; times are (B,), each after the other or the same.
    """

    latents: Tensor
    states: TextStates
    here: Tensor
    there: Tensor
    end: Tensor


def moment_at(
    places: Tensor, teacher: Teacher, steps: int, clean: Tensor, noise: Tensor, states: TextStates
) -> Moment:
    """Clean latents and noise (B, C, h, w), mixed as they are at the teacher's stops `places` (B,).

    Places count from 0 = noise; from the last of them, the teacher's next stop is the picture.
    """
    times, inner = teacher.times(steps)
    here, there, end = (
        times[index].to(clean.device)
        for index in (places, places + 1, (places // inner + 1) * inner)
    )
    at = here[:, None, None, None]
    return Moment((1 - at) * clean + at * noise, states, here, there, end)


def consistency_loss(student: Callable[..., Tensor], teacher: Teacher, moment: Moment) -> Tensor:
    """How far what the student says at `moment` is from what leads where it ends a little later."""
    # The teacher's drafts, of which nothing is dropped.
    drafts = teacher.denoiser.drafts(moment.states.hidden)
    wanted = _wanted(student, teacher, moment, drafts)
    said = clean_estimate(student, moment.latents, moment.here, moment.states, drafts)
    return functional.mse_loss(said, wanted)


@torch.no_grad()
def _wanted(
    student: Callable[..., Tensor], teacher: Teacher, moment: Moment, drafts: Tensor | None
) -> Tensor:
    """The estimates that lead from `moment` to where, after a step of the teacher, it would end."""
    here, there, end = moment.here, moment.there, moment.end
    toward = teacher.clean(moment.latents, here, moment.states)
    reached = euler(moment.latents, toward, here, there)
    left = torch.nonzero(there > end)[:, 0]  # the others are at the end already
    if len(left):
        states = TextStates(moment.states.hidden[left], moment.states.mask[left])
        of_left = None if drafts is None else drafts[left]
        said = clean_estimate(student, reached[left], there[left], states, of_left)
        reached[left] = euler(reached[left], said, there[left], end[left])
    return leading(moment.latents, reached, here, end)


def distil_stage(
    student: Denoiser,
    teacher: Teacher,
    encoder: KnowledgeTextEncoder,
    autoencoder: Autoencoder,
    examples: AnyExamples,
    loop: LoopConfig,
    steps: int,
) -> Stage:
    """Pictures of the data, noisy, at the stops of a teacher; each row at one drawn evenly."""
    latents = open_latents(autoencoder, examples)
    device = encoder.injection.gate.device
    forward = torch.compile(student) if loop.compile else student
    stops = len(teacher.times(steps)[0]) - 1

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        with torch.no_grad():
            states = encode_short(encoder, examples.sentences(indices, generator))
        clean = latents[indices]
        noise = torch.randn(clean.shape, generator=generator)
        places = torch.randint(0, stops, (len(indices),), generator=generator)
        moment = moment_at(places, teacher, steps, clean.to(device), noise.to(device), states)
        return consistency_loss(forward, teacher, moment)

    return Stage("distil", student, loss)
