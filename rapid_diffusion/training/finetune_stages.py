"""What learns in a fine-tuning, from which loss, and what it cost the old domain."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.checkpoints.folder import load_strict
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.model_folder import Model
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.text.tokens import Tokens
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import Examples, step_generator
from rapid_diffusion.training.finetune_data import Mixture, Source, spread
from rapid_diffusion.training.parts import rows_of
from rapid_diffusion.training.stages import (
    Stage,
    encode_short,
    noise_times,
    velocity,
    velocity_error,
)

#: Where on the way from picture (0) to noise (1) a loss is measured, and on how many rows.
TIMES = (0.2, 0.5, 0.8, 0.95)
MOST_ROWS = 128


class Learning(nn.Module):
    """The parameters that learn and nothing else, so that a checkpoint holds these only.

    `networks` are switched to training with it (dropout); they are not part of it.
    """

    def __init__(self, networks: Sequence[nn.Module], learns: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.networks = list(networks)  # a plain list: modules in it are not registered
        chosen = {id(parameter) for parameter in learns}
        for number, network in enumerate(networks):
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(id(parameter) in chosen)
                if id(parameter) in chosen:
                    self.register_parameter(f"{number}/{name.replace('.', '/')}", parameter)

    def train(self, mode: bool = True) -> "Learning":
        """Training or evaluation, for the networks as well."""
        for network in self.networks:
            network.train(mode)
        return super().train(mode)

    def take(self, weights: dict[str, Tensor], where: str) -> None:
        """Go on with these weights (the averages of a finished stage), fixed."""
        with torch.no_grad():
            load_strict(self, weights, where)
        self.eval().requires_grad_(False)


class Memory:
    """The networks as they were before they learn: what rehearsed rows are held to.

    Told what the model itself said of them (Li & Hoiem, 2016, "Learning without Forgetting"), old
    sentences move nothing as long as nothing is forgotten. Their pictures would: what a sentence
    leaves open keeps a loss, and its gradients, even where all is known.
    """

    def __init__(self, model: Model) -> None:
        self.encoder = copy.deepcopy(model.text_encoder).requires_grad_(False).eval()
        self.denoiser = copy.deepcopy(model.denoiser).requires_grad_(False).eval()

    @torch.no_grad()
    def draft(self, tokens: Tokens) -> Tensor:
        """The drafts (B, C, h, w) of old sentences."""
        draft, hidden = self.denoiser.draft, encode_short(self.encoder, tokens).hidden
        assert draft is not None
        return draft.mean(hidden[:, 0]).float()

    @torch.no_grad()
    def velocity(self, tokens: Tokens, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The velocities (B, C, h, w) at `times` (B,) on the way from clean to noise."""
        states = encode_short(self.encoder, tokens)
        return velocity(self.denoiser, states, clean, noise, times)


@dataclass(frozen=True)
class Lesson:
    """A model, the examples it goes on learning from, and what it remembers of old ones, if any."""

    model: Model
    mixture: Mixture
    memory: Memory | None

    def latents(self, tokens: Tokens, clean: Tensor) -> Tensor:
        """What the draft is to say (B, C, h, w): the latents, of old rows the memory's."""
        count = self.mixture.rehearsed(len(clean))
        if self.memory is None or not count:
            return clean
        old = slice(len(clean) - count, len(clean))
        return torch.cat([clean[:-count], self.memory.draft(rows_of(tokens, old)).to(clean)])

    def velocity(self, tokens: Tokens, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the UNet is to say (B, C, h, w): noise - clean, of old rows the memory's."""
        truth, count = noise - clean, self.mixture.rehearsed(len(clean))
        if self.memory is None or not count:
            return truth
        old = slice(len(clean) - count, len(clean))
        said = self.memory.velocity(rows_of(tokens, old), clean[old], noise[old], times[old])
        return torch.cat([truth[:-count], said.to(truth)])


def draft_stage(learning: Learning, lesson: Lesson, loop: LoopConfig) -> Stage:
    """Regression: the text tower and the draft, from sentences to the latents of their pictures."""
    draft, encoder = lesson.model.denoiser.draft, lesson.model.text_encoder
    assert draft is not None

    def loss(step: int) -> Tensor:
        tokens, clean = lesson.mixture.batch(step, loop, step_generator(loop.seed, step))
        sentence = encode_short(encoder, tokens).hidden[:, 0]
        wanted = lesson.latents(tokens, clean).to(sentence.device)
        return draft.loss(sentence, clean.to(sentence.device), wanted)

    return Stage("draft", learning, loss)


def diffusion_stage(learning: Learning, lesson: Lesson, loop: LoopConfig, *, text: bool) -> Stage:
    """Flow matching, times drawn as in the training of the model (`training.stages`).

    With `text` the tower learns here: through the UNet and, where there is a draft, from it too.
    """
    encoder, denoiser = lesson.model.text_encoder, lesson.model.denoiser
    forward = torch.compile(denoiser) if loop.compile else denoiser

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        tokens, clean = lesson.mixture.batch(step, loop, generator)
        noise = torch.randn(clean.shape, generator=generator)
        times = noise_times(len(clean), lesson.model.card.shift, generator)
        with torch.set_grad_enabled(text):
            states = encode_short(encoder, tokens)
        found = velocity(forward, states, clean, noise, times)
        wanted = lesson.velocity(tokens, clean, noise, times)
        flow = functional.mse_loss(found, wanted.to(found.device))
        if not text or denoiser.draft is None:
            return flow
        drafted = denoiser.draft.mean(states.hidden[:, 0]).float()
        wanted = lesson.latents(tokens, clean)
        return flow + functional.mse_loss(drafted, wanted.to(drafted.device))

    return Stage("diffusion", learning, loss)


@torch.no_grad()
def measure(model: Model, source: Source, rows: list[int], batch: int = 32) -> dict[str, float]:
    """The mean loss at `TIMES`, with fixed noise and plain captions, and that of the draft."""
    encoder, denoiser = model.text_encoder, model.denoiser
    networks: tuple[nn.Module, ...] = (encoder, denoiser)
    for network in networks:
        network.eval()
    chosen = spread(rows, MOST_ROWS)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(source.latents[chosen].shape, generator=generator)
    flow: list[Tensor] = []
    drafts: list[Tensor] = []
    for part, noisy in zip(
        *(torch.split(rows, batch) for rows in (torch.tensor(chosen), noise)), strict=True
    ):
        clean = source.latents[part]
        states = encoder.encode(source.examples.first_captions(part.tolist()))
        flow += [
            velocity_error(denoiser, states, clean, noisy, torch.full((len(part),), time))
            for time in TIMES
        ]
        drafts.append(_draft_error(denoiser, states, clean))
    return {
        "rows": len(chosen),
        "loss": round(float(torch.cat(flow).mean()), 5),
        **({"draft": round(float(torch.cat(drafts).mean()), 5)} if denoiser.draft else {}),
    }


def _draft_error(denoiser: Denoiser, states: TextStates, clean: Tensor) -> Tensor:
    if denoiser.draft is None:
        return torch.zeros(0)
    drafted = denoiser.draft.mean(states.hidden[:, 0])
    return (drafted.float() - clean.to(drafted.device)).square().flatten(1).mean(1)


def measure_all(model: Model, mixture: Mixture) -> dict[str, dict[str, float]]:
    """`measure` on the held-out and the training rows of the new data, and on the old domain's."""
    found = {}
    for name, source in (("new", mixture.new), ("old", mixture.old)):
        if source is None:
            continue
        for split, rows in _splits(source.examples).items():
            if name == "new" or split == "held_out" or not source.examples.held_out:
                found[f"{name}_{split}"] = measure(model, source, rows)
    return found


def _splits(examples: Examples) -> dict[str, list[int]]:
    splits = {"held_out": examples.held_out, "train": examples.train}
    return {name: rows for name, rows in splits.items() if rows}
