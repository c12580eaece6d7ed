"""What a student should learn: `python benchmarks/objectives.py OBJECTIVE --out FOLDER`.

Distils the same teacher for the same processor time with one of three objectives, so that
`benchmarks/distil.py --student FOLDER` can compare what they give. The student begins as the
teacher, the same layers learn, and it draws by Euler without guidance, as those of
`rapid-diffusion distil` do; AdamW and the averages are torch's and plain.

    consistency   wherever it is on a step's way, say where the step ends: what `distil` does
    imitation     be where the teacher is at the student's times (after imitate-NAT, Wei et al.
                  2019, arXiv:1906.02041); sentences are enough, no picture is looked at
    dmd2          draw what the teacher finds likely: the difference of its estimate and of one
                  that learns the student's own pictures (DMD2, Yin et al. 2024, arXiv:2405.14867;
                  without its discriminator, and no fresh noise between the student's steps)
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.components import INDEX, find_model
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.samplers import flow_dpmpp_2m
from rapid_diffusion.denoising.schedules import TIMESTEPS, flow_times
from rapid_diffusion.files import check_replaceable
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.distil import LOOP, Distilling, read_distil_config
from rapid_diffusion.training.distil_stages import Teacher, clean_estimate, euler, leading
from rapid_diffusion.training.latents import open_latents
from rapid_diffusion.training.stages import encode_short

STEPS = 4
#: Pictures a step: the teacher's way, or the student's own, has `STEPS` states each.
DRAWN = LOOP.batch // STEPS
AVERAGING = 0.95
#: Where the learning rate begins to fall, as a share of the time.
FALLS_FROM = 0.5
#: Updates of the estimate of the student's pictures for each of the student's.
FOLLOWS = 5


class Objective(Protocol):
    """`rate` to learn at, and one step's loss, whose gradients the caller takes."""

    rate: float

    def loss(self, step: int) -> Tensor: ...


class Lesson:
    """Teacher and student, and the sentences and pictures of a step."""

    def __init__(self, distilling: Distilling) -> None:
        self.teacher, self.student = distilling.teacher(), distilling.student()
        self.stage = distilling.stage(self.teacher, self.student)
        self.encoder, self.examples = distilling.model.text_encoder, distilling.examples
        self.latents = open_latents(distilling.model.autoencoder, distilling.examples)
        self.times = torch.tensor(flow_times(STEPS, self.teacher.shift), dtype=torch.float32)

    def batch(self, step: int, rows: int) -> tuple[TextStates, Tensor, Tensor, torch.Generator]:
        """States of sentences, the latents of their pictures, noise, and more randomness."""
        generator = step_generator(0, step)
        indices = self.examples.indices(step, rows, 0)
        with torch.no_grad():
            states = encode_short(self.encoder, self.examples.sentences(indices, generator))
        pictures = self.latents[indices]
        return states, pictures, torch.randn(pictures.shape, generator=generator), generator

    def say(self, denoiser: Denoiser, latents: Tensor, times: Tensor, states: TextStates) -> Tensor:
        """A clean estimate from the teacher's draft, of which nothing is dropped."""
        drafts = self.teacher.denoiser.drafts(states.hidden)
        return clean_estimate(denoiser, latents, times, states, drafts)


class Consistency:
    """The stage of `rapid-diffusion distil` as it is."""

    rate = 3e-4

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson

    def loss(self, step: int) -> Tensor:
        return self.lesson.stage.loss(step)


class Imitation:
    """Of two neighbouring states of the teacher, what leads from the first to the second.

    It is what a step of Euler takes for the picture.
    """

    rate = 3e-4

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson

    def loss(self, step: int) -> Tensor:
        lesson = self.lesson
        states, _, noise, _ = lesson.batch(step, DRAWN)
        passed = way_of(lesson.teacher, noise, states)
        latents, reached = torch.cat(passed[:-1]), torch.cat(passed[1:])
        here, there = (at.repeat_interleave(DRAWN) for at in (lesson.times[:-1], lesson.times[1:]))
        every = TextStates(states.hidden.repeat(STEPS, 1, 1), states.mask.repeat(STEPS, 1))
        said = lesson.say(lesson.student, latents, here, every)
        return functional.mse_loss(said, leading(latents, reached, here, there))


@torch.no_grad()
def way_of(teacher: Teacher, noise: Tensor, states: TextStates) -> list[Tensor]:
    """Where the teacher is at the student's times, from noise (B, C, h, w) to picture."""
    inner = teacher.times(STEPS)[1]
    latents, previous, passed = noise, torch.zeros_like(noise), [noise]
    for number, row in enumerate(flow_dpmpp_2m(STEPS * inner, teacher.shift).rows(), 1):
        clean = teacher.clean(latents, torch.full((len(noise),), row.timestep / TIMESTEPS), states)
        latents = row.a * latents + row.b * clean + row.c * previous
        previous = clean
        if number % inner == 0:
            passed.append(latents)
    return passed


class DistributionMatching:
    """Two learners in turn: who draws, and who knows what is drawn."""

    rate = 5e-5

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.follower = copy.deepcopy(lesson.student)
        self.following = torch.optim.AdamW(learning(self.follower), lr=1e-4)

    def loss(self, step: int) -> Tensor:
        first = (FOLLOWS + 1) * step
        for number in range(FOLLOWS):
            self._follow(first + number)
        lesson = self.lesson
        states, _, noise, generator = lesson.batch(first + FOLLOWS, DRAWN)
        drawn = self._draw(states, noise, generator)
        with torch.no_grad():
            latents, times = _noised(drawn, generator)
            real = lesson.teacher.clean(latents, times, states)
            own = lesson.say(self.follower, latents, times, states)
            scale = (drawn - real).abs().mean((1, 2, 3), keepdim=True)
            wanted = drawn - (own - real) / scale
        return 0.5 * functional.mse_loss(drawn, wanted)

    def _follow(self, step: int) -> None:
        lesson = self.lesson
        states, _, noise, generator = lesson.batch(step, DRAWN)
        with torch.no_grad():
            drawn = self._draw(states, noise, generator)
            latents, times = _noised(drawn, generator)
        said = lesson.say(self.follower, latents, times, states)
        loss = ((said - drawn) / times[:, None, None, None]).square().mean()  # of the velocity
        self.following.zero_grad()
        loss.backward()
        self.following.step()

    def _draw(self, states: TextStates, noise: Tensor, generator: torch.Generator) -> Tensor:
        """What the student says at one of its times, where its own steps have led it."""
        lesson, latents = self.lesson, noise
        last = int(torch.randint(0, STEPS, (), generator=generator))
        times = lesson.times[:, None].expand(-1, len(noise))
        with torch.no_grad():
            for number in range(last):
                clean = lesson.say(lesson.student, latents, times[number], states)
                latents = euler(latents, clean, times[number], times[number + 1])
        return lesson.say(lesson.student, latents, times[last], states)


def _noised(drawn: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """With noise (B, C, h, w) at times (B,) that are drawn evenly."""
    times = 0.02 + 0.96 * torch.rand(len(drawn), generator=generator)
    at = times[:, None, None, None]
    return (1 - at) * drawn + at * torch.randn(drawn.shape, generator=generator), times


OBJECTIVES: dict[str, Callable[[Lesson], Objective]] = {
    "consistency": Consistency,
    "imitation": Imitation,
    "dmd2": DistributionMatching,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objective", choices=OBJECTIVES)
    parser.add_argument("--teacher", default="emoji-zh")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--seconds", type=float, default=900, help="of the processor")
    parser.add_argument("--rate", type=float, help="another learning rate than the objective's own")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if torch.cuda.is_available():
        raise SystemExit("this compares processor time: set CUDA_VISIBLE_DEVICES to nothing")
    check_replaceable(options.out.absolute(), INDEX)
    config = read_distil_config(None, options.data)
    distilling = Distilling(find_model(options.teacher), options.out, config, STEPS)
    lesson = Lesson(distilling)
    objective = OBJECTIVES[options.objective](lesson)
    student = learn(lesson, objective, options.rate or objective.rate, options.seconds)
    distilling.write(student, shared=False)


def learn(lesson: Lesson, objective: Objective, rate: float, seconds: float) -> Denoiser:
    """Steps until the processor time is used up; the averaged student comes back."""
    student, average = lesson.student, copy.deepcopy(lesson.student)
    optimizer = torch.optim.AdamW(learning(student), lr=rate)
    began, step, losses = time.process_time(), 0, []
    while (share := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, (1 - share) / (1 - FALLS_FROM))
        loss = objective.loss(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning(student), 1.0)
        optimizer.step()
        step += 1
        follow(average, student, min(AVERAGING, step / (step + 9)))
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"{share:6.1%}  step {step}  loss {sum(losses[-20:]) / 20:.5f}", flush=True)
    print(f"{step} steps in {seconds:.0f} processor seconds")
    return average


@torch.no_grad()
def follow(average: Denoiser, student: Denoiser, decay: float) -> None:
    """Move the averaged weights towards the student's."""
    for kept, new in zip(average.parameters(), student.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def learning(denoiser: Denoiser) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [weight for weight in denoiser.network.parameters() if weight.requires_grad]


if __name__ == "__main__":
    main()
