"""What a student of few steps learns from its teacher: to be where the teacher is.

The idea of imitate-NAT (Wei et al., 2019, https://arxiv.org/abs/1906.02041) for a diffusion model:
the teacher draws a sentence in many steps with guidance, and its states at the student's times are
what the student, in one step without guidance, has to reach. Sentences are enough, no picture is
looked at. Times run from 1 = noise to 0 = picture, as flow matching has them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.samplers import SamplerTable, flow_dpmpp_2m
from rapid_diffusion.denoising.schedules import TIMESTEPS, flow_times
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, TextStates
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import Examples, step_generator
from rapid_diffusion.training.stages import Stage, encode_short

Sampler = Callable[[int, float], SamplerTable]


@dataclass(frozen=True)
class Teacher:
    """A fixed denoiser that draws with guidance: how, and the states (1, L, D) of no sentence.

    It takes `steps` at least, and two for each of the student's.
    """

    denoiser: Denoiser
    scale: float
    shift: float
    blank: TextStates
    sampler: Sampler = flow_dpmpp_2m
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

    def states_at(self, steps: int, noise: Tensor, states: TextStates) -> list[Tensor]:
        """Where it is at the `steps` + 1 times of a student, from noise (B, C, h, w) to picture."""
        inner = max(2, -(-self.steps // steps))
        latents, previous, passed = noise, torch.zeros_like(noise), [noise]
        for number, row in enumerate(self.sampler(steps * inner, self.shift).rows(), 1):
            times = torch.full((len(noise),), row.timestep / TIMESTEPS, device=noise.device)
            clean = self.clean(latents, times, states)
            latents = row.a * latents + row.b * clean + row.c * previous
            previous = clean
            if number % inner == 0:
                passed.append(latents)
        return passed


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


def imitation_loss(
    student: Callable[..., Tensor], teacher: Teacher, noise: Tensor, states: TextStates, steps: int
) -> Tensor:
    """How far the student's clean estimates are from those that lead where the teacher goes.

    A step of Euler from x at t to x' at t' = r t is x' = r x + (1 - r) D. So of two neighbouring
    states of the teacher, D = (x' - r x) / (1 - r) is what the student has to say at the first.
    """
    times = torch.tensor(flow_times(steps, teacher.shift), dtype=torch.float32)
    ratios = (times[1:] / times[:-1]).tolist()
    passed = teacher.states_at(steps, noise, states)
    wanted = [
        (there - ratio * here) / (1 - ratio)
        for (here, there), ratio in zip(pairwise(passed), ratios, strict=True)
    ]
    every = TextStates(states.hidden.repeat(steps, 1, 1), states.mask.repeat(steps, 1))
    # The teacher's drafts, of which nothing is dropped.
    drafts = teacher.denoiser.drafts(every.hidden)
    at = times[:-1].repeat_interleave(len(noise)).to(noise.device)
    clean = clean_estimate(student, torch.cat(passed[:-1]), at, every, drafts)
    return functional.mse_loss(clean, torch.cat(wanted))


def distil_stage(
    student: Denoiser,
    teacher: Teacher,
    encoder: KnowledgeTextEncoder,
    examples: Examples,
    loop: LoopConfig,
    steps: int,
) -> Stage:
    """`loop.batch` counts states: the teacher draws batch / `steps` pictures a step."""
    shape = (student.channels, student.sample_size, student.sample_size)
    device = encoder.injection.gate.device
    forward = torch.compile(student) if loop.compile else student

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, max(1, loop.batch // steps), loop.seed)
        with torch.no_grad():
            states = encode_short(encoder, examples.sentences(indices, generator))
        noise = torch.randn((len(indices), *shape), generator=generator).to(device)
        return imitation_loss(forward, teacher, noise, states, steps)

    return Stage("distil", student, loss)
