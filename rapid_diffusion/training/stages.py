"""The stages that learn by steps: a module and a loss. One loop (`loop.py`) serves them all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.autoencoder import Autoencoder
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.samplers import TIMESTEPS
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import KnowledgeTextEncoder
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import Examples, step_generator, to_signed


@dataclass(frozen=True)
class Stage:
    """A module that learns; `loss(step)` draws the examples of that step and gives a scalar."""

    name: str
    module: nn.Module
    loss: Callable[[int], Tensor]


def text_stage(pair: ContrastivePair, examples: Examples, loop: LoopConfig) -> Stage:
    """Contrastive: pictures against their sentences (Radford et al., 2021)."""

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        images = _shift(examples.picture_batch(indices), generator)
        tokens = examples.sentences(indices, generator)
        hidden = pair.text(tokens.ids, tokens.mask, tokens.entity_vectors)
        rows = torch.tensor(indices)
        empty = tokens.mask.sum(1) <= 2  # the captions that were dropped describe every picture
        same = (rows[:, None] == rows[None, :]) | empty[None, :] | empty[:, None]
        return pair.loss(images, hidden, same)

    return Stage("text", pair, loss)


def _shift(images: Tensor, generator: torch.Generator, most: int = 6) -> Tensor:
    """Move each picture by up to `most` pixels over its (white) border, and mirror half of them."""
    moved = []
    for image in images:
        down, right, mirror = torch.randint(-most, most + 1, (3,), generator=generator).tolist()
        image = torch.roll(image, (down, right), (1, 2))
        moved.append(image.flip(2) if mirror > 0 else image)
    return torch.stack(moved)


def diffusion_stage(
    denoiser: Denoiser,
    encoder: KnowledgeTextEncoder,
    autoencoder: Autoencoder,
    examples: Examples,
    loop: LoopConfig,
) -> Stage:
    """Flow matching on latents, text tower fixed; times from a logit-normal (Esser et al., 2024)."""
    latents = encode_all(autoencoder, examples)
    encoder.requires_grad_(False).eval()

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        tokens = examples.sentences(indices, generator)
        clean = latents[indices]
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randn(len(indices), generator=generator).sigmoid()
        at = times[:, None, None, None]
        noisy = (1 - at) * clean + at * noise
        with torch.no_grad():
            states = encoder.encode(tokens)
        velocity = denoiser(
            noisy.contiguous(memory_format=torch.channels_last),
            TIMESTEPS * times,
            states.hidden,
            states.mask,
        )
        return functional.mse_loss(velocity, noise - clean)

    return Stage("diffusion", denoiser, loss)


@torch.no_grad()
def encode_all(autoencoder: Autoencoder, examples: Examples, batch: int = 64) -> Tensor:
    """The latents of every picture (N, C, h, w)."""
    numbers = list(range(len(examples.rows)))
    parts = [
        autoencoder.encode(examples.picture_batch(numbers[start : start + batch]))
        for start in range(0, len(numbers), batch)
    ]
    return torch.cat(parts)


def super_resolution_stage(
    network: nn.Module,
    autoencoder: Autoencoder,
    examples: Examples,
    loop: LoopConfig,
    crop: int = 32,
) -> Stage:
    """Small pictures as the autoencoder and the denoiser leave them -> large ones as drawn.

    The input goes through the latents with a little noise on them, so that the network learns to
    clean what generated latents have and real ones have not.
    """
    large, numbers = examples.large_pictures(), np.array(examples.train)
    scale = large.shape[1] // examples.pictures.shape[1]

    def loss(step: int) -> Tensor:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        small, target = _crops(examples.pictures, large, indices, crop, scale, generator)
        with torch.no_grad():
            latents = autoencoder.encode(small)
            strength = 0.12 * torch.rand(len(indices), 1, 1, 1, generator=generator)
            latents = latents + strength * torch.randn(latents.shape, generator=generator)
            given = (autoencoder.decode(latents).clamp(-1, 1) + 1) / 2
        return functional.l1_loss(network(given), (target + 1) / 2)

    del numbers
    return Stage("super_resolution", network, loss)


def _crops(
    small: "np.ndarray", large: "np.ndarray", indices: list[int], crop: int, scale: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    places = torch.randint(0, (small.shape[1] - crop) // 4 + 1, (len(indices), 2),
                           generator=generator) * 4
    near, far = [], []
    for index, (top, left) in zip(indices, places.tolist(), strict=True):
        near.append(small[index, top : top + crop, left : left + crop])
        top, left, side = top * scale, left * scale, crop * scale
        far.append(large[index, top : top + side, left : left + side])
    return to_signed(np.stack(near)), to_signed(np.stack(far))


def stage_folder(output: Path, name: str) -> Path:
    """Where a stage keeps its checkpoint and log."""
    return output / "stages" / name
