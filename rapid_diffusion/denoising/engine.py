"""Rows of noise become latents: one call of the denoiser a step, two rows a picture if guided."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.samplers import SamplerTable
from rapid_diffusion.errors import NumericalError
from rapid_diffusion.text.encoder import TextStates

#: Called after each step with (step from 0, number of steps, latents).
StepCallback = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans, 2022): D + (scale - 1) · (D - D of `negative`)."""

    scale: float
    negative: TextStates


def row_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise of one picture: from its own generator on the CPU, whatever its neighbours are.

    The generator looks at the lower 32 bits of `seed`.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator)


def denoise(
    denoiser: nn.Module,
    noise: Tensor,
    states: TextStates,
    table: SamplerTable,
    guidance: Guidance | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """noise (B, C, h, w) and the states of B sentences -> clean latents (B, C, h, w).

    Raises `NumericalError` where a NaN or an infinity comes out, naming the rows.
    """
    latents, previous = noise, torch.zeros_like(noise)
    hidden, mask = _with_negative(states, guidance)
    drafts = denoiser.drafts(hidden) if isinstance(denoiser, Denoiser) else None
    conditions = (hidden, mask) if drafts is None else (hidden, mask, drafts)
    for step, row in enumerate(table.rows()):
        inputs = row.scale * latents
        pairs = inputs if guidance is None else torch.cat([inputs, inputs])
        timesteps = torch.full((len(pairs),), row.timestep, device=pairs.device)
        output = _guided(denoiser(pairs, timesteps, *conditions), guidance)
        clean = row.skip * latents + row.out * output
        latents = row.a * latents + row.b * clean + row.c * previous
        previous = clean
        if callback is not None:
            callback(step, len(table), latents)
    _check_finite(latents)
    return latents


def _with_negative(states: TextStates, guidance: Guidance | None) -> tuple[Tensor, Tensor]:
    if guidance is None:
        return states.hidden, states.mask
    negative = guidance.negative
    return torch.cat([states.hidden, negative.hidden]), torch.cat([states.mask, negative.mask])


def _guided(output: Tensor, guidance: Guidance | None) -> Tensor:
    if guidance is None:
        return output
    positive, negative = output.chunk(2)
    return negative + guidance.scale * (positive - negative)


def _check_finite(latents: Tensor) -> None:
    bad = (~torch.isfinite(latents).flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise NumericalError(
            f"the model gave NaN or infinity in rows {bad}; use dtype=torch.float32, and if that "
            "is so already, check the weights with `rapid-diffusion doctor`"
        )
