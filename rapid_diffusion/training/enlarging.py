"""The stages that learn to enlarge what latents say: the decoder's network and the upscaler."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.autoencoder import Autoencoder, PatchAutoencoder
from rapid_diffusion.images.convert import model_to_unit
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator, to_signed
from rapid_diffusion.training.latents import AnyExamples
from rapid_diffusion.training.parts import Part
from rapid_diffusion.training.stages import Stage
from rapid_diffusion.training.streaming import ShardPictures

#: Noise on the latents they learn from: about what twenty steps of sampling leave.
LATENT_NOISE = 0.25
#: Side of the crops they learn from, in latents.
CROP = 8

AnyPictures = NDArray[np.uint8] | ShardPictures


def decoder_stage(autoencoder: PatchAutoencoder, examples: AnyExamples, loop: LoopConfig) -> Stage:
    """Latents -> the pictures they were made of, by the network at the decoder's end."""
    assert autoencoder.network is not None
    device = autoencoder.mean.device

    def loss(step: int, part: Part) -> Tensor:
        latents, cut = _noisy_crops(autoencoder, examples, loop, step, part, device)
        target = cut(examples.pictures, 1).to(device)
        return functional.l1_loss(autoencoder.decode(latents), target)

    return Stage.of_parts("decoder", autoencoder.network, loss)


def super_resolution_stage(
    network: nn.Module, autoencoder: Autoencoder, examples: AnyExamples, loop: LoopConfig
) -> Stage:
    """Small pictures as the autoencoder and the denoiser leave them -> large ones as drawn.

    The autoencoder is on the CPU. Without steps there need be no large pictures: the network stays
    what it is.
    """
    large = examples.large_pictures() if loop.steps else None
    device = next(network.parameters()).device

    def loss(step: int, part: Part) -> Tensor:
        latents, cut = _noisy_crops(autoencoder, examples, loop, step, part, torch.device("cpu"))
        with torch.no_grad():
            given = model_to_unit(autoencoder.decode(latents))
        enlarged = network(given.to(device))
        assert large is not None
        target = model_to_unit(cut(large, examples.large_side // examples.side))
        return functional.l1_loss(enlarged.float(), target.to(device))

    return Stage.of_parts("super_resolution", network, loss)


@torch.no_grad()
def _noisy_crops(
    autoencoder: Autoencoder,
    examples: AnyExamples,
    loop: LoopConfig,
    step: int,
    part: Part,
    device: torch.device,
) -> tuple[Tensor, Callable[[AnyPictures, int], Tensor]]:
    """Latents (B, C, c, c) of crops with a little noise, and what cuts the crops from pictures.

    The autoencoder is on `device`. By the noise a network learns to clean what generated latents
    have and real ones have not.
    """
    generator = step_generator(loop.seed, step)
    indices = examples.indices(step, loop.batch, loop.seed)
    rows = part.rows(len(indices))
    whole = examples.side // autoencoder.factor
    crop = min(CROP, whole)
    places = torch.randint(0, whole - crop + 1, (len(indices), 2), generator=generator)
    corners = (places * autoencoder.factor).tolist()[rows]

    cut = partial(_crops, indices=indices[rows], corners=corners, side=crop * autoencoder.factor)
    latents = autoencoder.encode(cut(examples.pictures, 1).to(device))
    strength = LATENT_NOISE * torch.rand(len(indices), 1, 1, 1, generator=generator)
    added = strength * torch.randn((len(indices), *latents.shape[1:]), generator=generator)
    return latents + added[rows].to(device), cut


def _crops(
    pictures: AnyPictures, scale: int, indices: list[int], corners: list[list[int]], side: int
) -> Tensor:
    """(B, 3, scale · side, scale · side) in [-1, 1]: a square of `side` pixels at each corner.

    Corners and side are in pixels of pictures that are `scale` times smaller.
    """
    end = side * scale
    found = [
        pictures[index, top * scale : top * scale + end, left * scale : left * scale + end]
        for index, (top, left) in zip(indices, corners, strict=True)
    ]
    return to_signed(np.stack(found))
