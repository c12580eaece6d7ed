"""The stages that learn by steps: a module and a loss. One loop (`loop.py`) serves them all."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.autoencoder import Autoencoder
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.draft import SentenceDraft
from rapid_diffusion.denoising.schedules import TIMESTEPS
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, TextStates
from rapid_diffusion.text.tokens import Tokens
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.latents import AnyExamples, open_latents
from rapid_diffusion.training.parts import WHOLE, Part, rows_of
from rapid_diffusion.training.processes import gather_rows
from rapid_diffusion.training.sentences import View


@dataclass(frozen=True)
class Stage:
    """A module that learns; `loss(step)` draws the examples of that step and gives a scalar.

    `part_loss(step, part)` is that of a part of the batch, so that the mean over equal parts is
    the loss; without it the stage trains in one process and in one go. With `compares`, rows are
    compared across the batch: parts must then run at once and exchange what they have. `sheet`
    draws pictures with the weights it is given, as PNG, and touches nothing else. A checkpoint
    is refused where one of the `settings` was another.
    """

    name: str
    module: nn.Module
    loss: Callable[[int], Tensor]
    part_loss: Callable[[int, Part], Tensor] | None = None
    compares: bool = False
    sheet: Callable[[dict[str, Tensor]], bytes] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_parts(
        cls, name: str, module: nn.Module, part_loss: Callable[[int, Part], Tensor]
    ) -> "Stage":
        """A stage whose loss is the mean of those of its parts."""
        return cls(name, module, lambda step: part_loss(step, WHOLE), part_loss)

    def loss_of(self, step: int, part: Part) -> Tensor:
        """The loss of a part of the batch of that step."""
        return self.loss(step) if self.part_loss is None else self.part_loss(step, part)


def encode_short(encoder: KnowledgeTextEncoder, tokens: Tokens) -> TextStates:
    """The states of a batch, without computing the columns that are padding in every row.

    Those are zeros: nobody may look at them. Captions are short, so this halves the tower's work;
    drawing does without it, because a row's bits would then depend on its neighbours.
    """
    length = int(tokens.mask.sum(1).max())
    used = Tokens(
        tokens.ids[:, :length],
        tokens.mask[:, :length],
        tokens.entity_vectors[:, :length],
        tokens.truncated,
    )
    states = encoder.encode(used)
    padding = tokens.ids.shape[1] - length
    hidden = functional.pad(states.hidden, (0, 0, 0, padding))
    return TextStates(hidden, functional.pad(states.mask, (0, padding)))


TEXT_VIEWS: tuple[View, ...] = ("linked", "bare")


def text_stage(pair: ContrastivePair, examples: AnyExamples, loop: LoopConfig) -> Stage:
    """Contrastive: pictures against their sentences (Radford et al., 2021).

    Each picture meets two of its captions, one with its links and one in bare words. With links
    left out of some captions instead, words and vectors each learned from a share of them only.
    """

    def loss(step: int, part: Part) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        rows = part.rows(len(indices))
        moves = _moves(len(indices), generator, max(1, examples.side // 10))
        images = _shift(examples.picture_batch(indices[rows]), moves[rows])
        seen = gather_rows(pair.image_features(images.to(pair.log_scale)))
        losses = [
            _told(pair, examples.sentences(indices, generator, view), indices, rows, seen)
            for view in TEXT_VIEWS
        ]
        return torch.stack(losses).mean()

    return replace(Stage.of_parts("text", pair, loss), compares=True)


def _told(
    pair: ContrastivePair, tokens: Tokens, indices: list[int], rows: slice, seen: Tensor
) -> Tensor:
    """The contrastive loss of one caption a picture, given the features of the whole batch."""
    told = gather_rows(pair.text_features(encode_short(pair.text, rows_of(tokens, rows)).hidden))
    pictures = torch.tensor(indices)
    empty = tokens.mask.sum(1) <= 2  # the captions that were dropped describe every picture
    same = (pictures[:, None] == pictures[None, :]) | empty[None, :] | empty[:, None]
    return pair.compare(seen, told, same.to(told.device))


def _moves(count: int, generator: torch.Generator, most: int = 6) -> list[list[int]]:
    """For each picture: pixels down, pixels to the right, and above 0 where it is mirrored."""
    return [
        torch.randint(-most, most + 1, (3,), generator=generator).tolist() for _ in range(count)
    ]


def _shift(images: Tensor, moves: list[list[int]]) -> Tensor:
    """Roll each picture over its (white) border, and mirror some."""
    moved = []
    for image, (down, right, mirror) in zip(images, moves, strict=True):
        image = torch.roll(image, (down, right), (1, 2))
        moved.append(image.flip(2) if mirror > 0 else image)
    return torch.stack(moved)


def draft_stage(
    draft: SentenceDraft,
    encoder: KnowledgeTextEncoder,
    autoencoder: Autoencoder,
    examples: AnyExamples,
    loop: LoopConfig,
) -> Stage:
    """Regression: from a sentence to the mean latents of the pictures it describes."""
    latents = open_latents(autoencoder, examples)
    if not draft.output.weight.any():  # new, not begun with a model's weights
        draft.start_from(latents.mean())
    encoder.requires_grad_(False).eval()
    device = encoder.injection.gate.device

    def loss(step: int, part: Part) -> Tensor:
        indices = examples.indices(step, loop.batch, loop.seed)
        rows = part.rows(len(indices))
        tokens = rows_of(examples.sentences(indices, step_generator(loop.seed, step)), rows)
        with torch.no_grad():
            sentence = encode_short(encoder, tokens).hidden[:, 0]
        return draft.loss(sentence, latents[indices[rows]].to(device))

    return Stage.of_parts("draft", draft, loss)


def diffusion_stage(
    denoiser: Denoiser,
    encoder: KnowledgeTextEncoder,
    autoencoder: Autoencoder,
    examples: AnyExamples,
    loop: LoopConfig,
    shift: float,
    weigh: Callable[[Tensor], Tensor] = torch.ones_like,
) -> Stage:
    """Flow matching on latents, the text tower and the draft fixed.

    Times are drawn from a logit-normal distribution (Esser et al., 2024, section 3.1), moved
    towards the noise by the `shift` that sampling uses: neighbouring latents say much the same, so
    the shape of a drawing shows through strong noise and is decided there. `weigh` makes of the
    times (B,) how much each row's squared error counts.
    """
    latents = open_latents(autoencoder, examples)
    encoder.requires_grad_(False).eval()
    if denoiser.draft is not None:
        denoiser.draft.requires_grad_(False)
    forward = torch.compile(denoiser) if loop.compile else denoiser

    def loss(step: int, part: Part) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        rows = part.rows(len(indices))
        tokens = rows_of(examples.sentences(indices, generator), rows)
        clean = latents[indices[rows]]
        noise = torch.randn((len(indices), *clean.shape[1:]), generator=generator)[rows]
        times = noise_times(len(indices), shift, generator)[rows]
        with torch.no_grad():
            states = encode_short(encoder, tokens)
        error = velocity_error(forward, states, clean, noise, times)
        return (error * weigh(times).to(error.device)).mean()

    return Stage.of_parts("diffusion", denoiser, loss)


def noise_times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Times (B,) from 0 = picture to 1 = noise, logit-normal, moved to the noise by `shift`."""
    return (torch.randn(count, generator=generator) + math.log(shift)).sigmoid()


def velocity_error(
    denoiser: Callable[..., Tensor],
    states: TextStates,
    clean: Tensor,
    noise: Tensor,
    times: Tensor,
) -> Tensor:
    """The squared error (B,) of the velocity noise - clean at `times` (B,)."""
    found = velocity(denoiser, states, clean, noise, times)
    return (found - (noise - clean).to(found.device)).square().mean((1, 2, 3))


def velocity(
    denoiser: Callable[..., Tensor],
    states: TextStates,
    clean: Tensor,
    noise: Tensor,
    times: Tensor,
) -> Tensor:
    """What the denoiser takes for the velocity (B, C, h, w) at `times` (B,), in float32.

    Flow matching (Lipman et al., 2023): on the straight way from clean to noise, both (B, C, h, w).
    """
    at = times[:, None, None, None]
    noisy = ((1 - at) * clean + at * noise).contiguous(memory_format=torch.channels_last)
    device = states.hidden.device
    timesteps = (TIMESTEPS * times).to(device)
    return denoiser(noisy.to(device), timesteps, states.hidden, states.mask).float()


def stage_folder(output: Path, name: str) -> Path:
    """Where a stage keeps its checkpoint and log."""
    return output / "stages" / name
