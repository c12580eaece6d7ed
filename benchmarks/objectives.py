"""What a student should learn: `python benchmarks/objectives.py OBJECTIVE --out FOLDER`.

Distils the same teacher for the same processor time with one of three objectives, so that
`benchmarks/distil.py --student FOLDER` can compare what they give. Student, layers that learn,
optimizer and the way the student draws (Euler, no guidance) are those of `rapid-diffusion distil`.

    imitation     be where the teacher is at the student's times; what `distil` does
    consistency   on each stretch between two of the student's times say at every time what leads
                  to the same end, from where a step of the teacher leads (Multistep Consistency
                  Models, Heek et al. 2024, arXiv:2403.06807)
    dmd2          draw what the teacher finds likely: the difference of its estimate and of one
                  that learns the student's own pictures (DMD2, Yin et al. 2024, arXiv:2405.14867;
                  without its discriminator)
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

from rapid_diffusion.components import find_model
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.schedules import flow_times
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.distil import Distilling, read_distil_config
from rapid_diffusion.training.distil_stages import clean_estimate, imitation_loss
from rapid_diffusion.training.latents import open_latents
from rapid_diffusion.training.stages import encode_short

STEPS, STATES = 4, 32
AVERAGING = 0.95
#: Where the learning rate begins to fall, as a share of the time.
FALLS_FROM = 0.5
#: Steps of the teacher on each stretch of the student's, as `distil` lets it take.
STRETCH = 2
#: Updates of the estimate of the student's pictures for each of the student's.
FOLLOWS = 5


class Objective(Protocol):
    """One step's loss; the student's gradients are taken by the caller."""

    def loss(self, step: int) -> Tensor: ...


class Lesson:
    """Teacher and student, and the sentences and pictures of a step."""

    def __init__(self, distilling: Distilling) -> None:
        self.teacher, self.student = distilling.teacher(), distilling.student()
        self.average = copy.deepcopy(self.student).requires_grad_(False)
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


def euler(latents: Tensor, clean: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """From times `here` to `there`, both (B,)."""
    ratio = (there / here)[:, None, None, None]
    return ratio * latents + (1 - ratio) * clean


class Imitation:
    """See `rapid_diffusion.training.distil_stages`."""

    rate = 3e-4

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson

    def loss(self, step: int) -> Tensor:
        lesson = self.lesson
        states, _, noise, _ = lesson.batch(step, STATES // STEPS)
        return imitation_loss(lesson.student, lesson.teacher, noise, states, STEPS)


class Consistency:
    """Each stretch has its own end; the target is what the averaged student says."""

    rate = 3e-4

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson

    def loss(self, step: int) -> Tensor:
        lesson = self.lesson
        states, pictures, noise, generator = lesson.batch(step, STATES)
        stretch = torch.randint(0, STEPS, (STATES,), generator=generator)
        begin, end = lesson.times[stretch], lesson.times[stretch + 1]
        place = torch.randint(0, STRETCH, (STATES,), generator=generator)
        here, there = (begin + (end - begin) * (place + more) / STRETCH for more in (0, 1))
        at = here[:, None, None, None]
        latents = (1 - at) * pictures + at * noise
        with torch.no_grad():
            moved = euler(latents, lesson.teacher.clean(latents, here, states), here, there)
            last = there <= end + 1e-6
            asked = torch.where(last, here, there)  # of what is at the end nobody need be asked
            said = lesson.say(lesson.average, moved, asked, states)
            reached = torch.where(last[:, None, None, None], moved, euler(moved, said, asked, end))
            ratio = (end / here)[:, None, None, None]
            wanted = (reached - ratio * latents) / (1 - ratio)
        return functional.mse_loss(lesson.say(lesson.student, latents, here, states), wanted)


class DistributionMatching:
    """Two learners in turn: who draws, and who knows what is drawn."""

    rate = 5e-5

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.follower = copy.deepcopy(lesson.student)
        self.following = torch.optim.AdamW(learning(self.follower), lr=1e-4)

    def loss(self, step: int) -> Tensor:
        for number in range(FOLLOWS):
            self._follow((FOLLOWS + 1) * step + number)
        lesson = self.lesson
        states, _, noise, generator = lesson.batch((FOLLOWS + 1) * step + FOLLOWS, STATES // STEPS)
        drawn = self._draw(states, noise, generator)
        with torch.no_grad():
            latents, times = self._noised(drawn, generator)
            real = lesson.teacher.clean(latents, times, states)
            own = lesson.say(self.follower, latents, times, states)
            scale = (drawn - real).abs().mean((1, 2, 3), keepdim=True)
            wanted = drawn - (own - real) / scale
        return 0.5 * functional.mse_loss(drawn, wanted)

    def _follow(self, step: int) -> None:
        lesson = self.lesson
        states, _, noise, generator = lesson.batch(step, STATES // STEPS)
        with torch.no_grad():
            drawn = self._draw(states, noise, generator)
            latents, times = self._noised(drawn, generator)
        said = lesson.say(self.follower, latents, times, states)
        loss = ((said - drawn) / times[:, None, None, None]).square().mean()  # of the velocity
        self.following.zero_grad()
        loss.backward()
        self.following.step()

    def _draw(self, states: TextStates, noise: Tensor, generator: torch.Generator) -> Tensor:
        """What the student says at one of its times, where its own steps have led it."""
        lesson, latents = self.lesson, noise
        last = int(torch.randint(0, STEPS, (), generator=generator))
        for number in range(last + 1):
            here = lesson.times[number].expand(len(noise))
            with torch.set_grad_enabled(number == last and torch.is_grad_enabled()):
                clean = lesson.say(lesson.student, latents, here, states)
            latents = euler(latents, clean, here, lesson.times[number + 1].expand(len(noise)))
        return clean

    def _noised(self, drawn: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        times = 0.02 + 0.96 * torch.rand(len(drawn), generator=generator)
        at = times[:, None, None, None]
        return (1 - at) * drawn + at * torch.randn(drawn.shape, generator=generator), times


OBJECTIVES: dict[str, Callable[[Lesson], Objective]] = {
    "imitation": Imitation,
    "consistency": Consistency,
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
    config = read_distil_config(None, options.data)
    distilling = Distilling(find_model(options.teacher), options.out, config, STEPS)
    lesson = Lesson(distilling)
    objective = OBJECTIVES[options.objective](lesson)
    learn(lesson, objective, options.rate or objective.rate, options.seconds)
    distilling.write(lesson.average, shared=False)


def learn(lesson: Lesson, objective: Objective, rate: float, seconds: float) -> None:
    """Steps until the processor time is used up; the averaged student is what counts."""
    optimizer = torch.optim.AdamW(learning(lesson.student), lr=rate)
    began, step, losses = time.process_time(), 0, []
    while (share := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, (1 - share) / (1 - FALLS_FROM))
        loss = objective.loss(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning(lesson.student), 1.0)
        optimizer.step()
        step += 1
        decay = min(AVERAGING, step / (step + 9))
        with torch.no_grad():
            for kept, new in zip(
                lesson.average.parameters(), lesson.student.parameters(), strict=True
            ):
                kept.lerp_(new, 1 - decay)
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"{share:6.1%}  step {step}  loss {sum(losses[-20:]) / 20:.5f}", flush=True)
    print(f"{step} steps in {seconds:.0f} processor seconds")


def learning(denoiser: Denoiser) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [weight for weight in denoiser.network.parameters() if weight.requires_grad]


if __name__ == "__main__":
    main()
