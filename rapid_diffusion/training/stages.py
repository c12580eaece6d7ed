"""The stages that learn by steps: a module and a loss. One loop (`loop.py`) serves them all."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.autoencoder import Autoencoder
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.draft import SentenceDraft
from rapid_diffusion.denoising.samplers import TIMESTEPS
from rapid_diffusion.images.convert import model_to_unit
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import KnowledgeTextEncoder
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator, to_signed
from rapid_diffusion.training.latents import AnyExamples, open_latents
from rapid_diffusion.training.streaming import ShardPictures


@dataclass(frozen=True)
class Stage:
    """A module that learns; `loss(step)` draws the examples of that step and gives a scalar."""

    name: str
    module: nn.Module
    loss: Callable[[int], Tensor]


def text_stage(pair: ContrastivePair, examples: AnyExamples, loop: LoopConfig) -> Stage:
    """Contrastive: pictures against their sentences (Radford et al., 2021)."""

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        images = _shift(examples.picture_batch(indices), generator)
        tokens = examples.sentences(indices, generator)
        hidden = pair.text.encode(tokens).hidden
        rows = torch.tensor(indices)
        empty = tokens.mask.sum(1) <= 2  # the captions that were dropped describe every picture
        same = (rows[:, None] == rows[None, :]) | empty[None, :] | empty[:, None]
        return pair.loss(images.to(hidden.device), hidden, same.to(hidden.device))

    return Stage("text", pair, loss)


def _shift(images: Tensor, generator: torch.Generator, most: int = 6) -> Tensor:
    """Move each picture by up to `most` pixels over its (white) border, and mirror half of them."""
    moved = []
    for image in images:
        down, right, mirror = torch.randint(-most, most + 1, (3,), generator=generator).tolist()
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
    draft.start_from(latents.mean())
    encoder.requires_grad_(False).eval()
    device = encoder.injection.gate.device

    def loss(step: int) -> Tensor:
        indices = examples.indices(step, loop.batch, loop.seed)
        tokens = examples.sentences(indices, step_generator(loop.seed, step))
        with torch.no_grad():
            sentence = encoder.encode(tokens).hidden[:, 0]
        return functional.mse_loss(draft(sentence).float(), latents[indices].to(device))

    return Stage("draft", draft, loss)


def diffusion_stage(
    denoiser: Denoiser,
    encoder: KnowledgeTextEncoder,
    autoencoder: Autoencoder,
    examples: AnyExamples,
    loop: LoopConfig,
    shift: float,
) -> Stage:
    """Flow matching on latents, the text tower and the draft fixed.

    Times are drawn from a logit-normal distribution (Esser et al., 2024, section 3.1), moved
    towards the noise by the `shift` that sampling uses: neighbouring latents say much the same, so
    the shape of a drawing shows through strong noise and is decided there.
    """
    latents = open_latents(autoencoder, examples)
    encoder.requires_grad_(False).eval()
    if denoiser.draft is not None:
        denoiser.draft.requires_grad_(False)
    device = encoder.injection.gate.device
    forward = torch.compile(denoiser) if loop.compile else denoiser

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        tokens = examples.sentences(indices, generator)
        clean = latents[indices]
        noise = torch.randn(clean.shape, generator=generator)
        times = (torch.randn(len(indices), generator=generator) + math.log(shift)).sigmoid()
        at = times[:, None, None, None]
        noisy = ((1 - at) * clean + at * noise).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            states = encoder.encode(tokens)
        timesteps = (TIMESTEPS * times).to(device)
        velocity = forward(noisy.to(device), timesteps, states.hidden, states.mask)
        return functional.mse_loss(velocity.float(), (noise - clean).to(device))

    return Stage("diffusion", denoiser, loss)


#: Noise on the latents an upscaler learns from: about what twenty steps of sampling leave.
LATENT_NOISE = 0.25
CROP = 32


def super_resolution_stage(
    network: nn.Module, autoencoder: Autoencoder, examples: AnyExamples, loop: LoopConfig
) -> Stage:
    """Small pictures as the autoencoder and the denoiser leave them -> large ones as drawn.

    The input goes through the latents with a little noise on them, so that the network learns to
    clean what generated latents have and real ones have not.
    """
    large = examples.large_pictures()
    small_side = examples.side
    scale = examples.large_side // small_side
    device = next(network.parameters()).device

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        span = small_side - CROP
        places = torch.randint(
            0, span // autoencoder.factor + 1, (len(indices), 2), generator=generator
        )
        corners = (places * autoencoder.factor).tolist()
        small = _crops(examples.pictures, indices, corners, 1)
        target = _crops(large, indices, corners, scale)
        with torch.no_grad():
            latents = autoencoder.encode(small)
            strength = LATENT_NOISE * torch.rand(len(indices), 1, 1, 1, generator=generator)
            latents = latents + strength * torch.randn(latents.shape, generator=generator)
            given = model_to_unit(autoencoder.decode(latents))
        enlarged = network(given.to(device))
        return functional.l1_loss(enlarged.float(), model_to_unit(target).to(device))

    return Stage("super_resolution", network, loss)


def _crops(
    pictures: NDArray[np.uint8] | ShardPictures,
    indices: list[int],
    corners: list[list[int]],
    scale: int,
) -> Tensor:
    """The square of `CROP` pixels at each corner, in pictures that are `scale` times larger."""
    side = CROP * scale
    cut = [
        pictures[index, top * scale : top * scale + side, left * scale : left * scale + side]
        for index, (top, left) in zip(indices, corners, strict=True)
    ]
    return to_signed(np.stack(cut))


def stage_folder(output: Path, name: str) -> Path:
    """Where a stage keeps its checkpoint and log."""
    return output / "stages" / name
