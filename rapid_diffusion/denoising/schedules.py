"""How much picture and how much noise a latent holds at each time: x = alpha · x_0 + sigma · noise.

Two families: flow matching (Lipman et al., 2022), alpha = 1 - t and sigma = t; and variance
preserving diffusion (Ho et al., 2020), alpha² + sigma² = 1 with 1000 trained levels. Times,
spacings and defaults are those of `diffusers`, whose checkpoints were trained with them; the
spacings are table 2 of Lin et al., 2024 (https://arxiv.org/abs/2305.08891).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Table = NDArray[np.float64]
Spacing = Literal["leading", "trailing", "linspace"]

#: Levels a diffusion model is trained on; a flow model is asked with t times this.
TIMESTEPS = 1000
#: Of Karras et al., 2022 (https://arxiv.org/abs/2206.00364), equation 5.
KARRAS_RHO = 7.0


@dataclass(frozen=True)
class DiffusionSchedule:
    """What a diffusion model was trained with; the defaults are Stable Diffusion 1's.

    `prediction` is what the model gives. `ends_clean`: DDIM's last step goes to the picture itself
    (`set_alpha_to_one`) rather than to the lowest trained level.
    """

    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    spacing: Spacing = "leading"
    betas: Literal["scaled_linear", "linear"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps_offset: int = 0
    ends_clean: bool = True
    karras: bool = False

    def alpha_squared(self) -> Table:
        """The share of the picture at each trained level, (1000,).

        Summed in float32 as in training: the model knows those numbers, not the exact ones.
        """
        if self.betas == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, TIMESTEPS)
        else:
            betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, TIMESTEPS) ** 2
        table: Table = torch.cumprod(1.0 - betas, 0).double().numpy()
        return table

    def noise_ratio(self) -> Table:
        """sigma / alpha at each trained level, (1000,), rising."""
        alpha_squared = self.alpha_squared()
        table: Table = np.sqrt((1.0 - alpha_squared) / alpha_squared)
        return table


def flow_times(steps: int, shift: float = 1.0) -> Table:
    """`steps` + 1 times from 1 (noise) to 0 (picture).

    A shift above 1 spends more of the steps near the noise (Esser et al., 2024, equation 23).
    """
    times = np.linspace(1.0, 0.0, steps + 1)
    return shift * times / (1.0 + (shift - 1.0) * times)


def spaced_timesteps(schedule: DiffusionSchedule, steps: int) -> Table:
    """`steps` falling timesteps of 0 to 999 (not whole for "linspace"), as DDIM and Euler go."""
    if schedule.spacing == "linspace":
        return np.linspace(0.0, TIMESTEPS - 1.0, steps)[::-1]
    if schedule.spacing == "leading":
        return (
            np.arange(steps, dtype=np.float64)[::-1] * (TIMESTEPS // steps) + schedule.steps_offset
        )
    return _trailing(steps)


def inner_timesteps(schedule: DiffusionSchedule, steps: int) -> Table:
    """`steps` falling whole timesteps that leave 0 out, as the multistep solvers go."""
    if schedule.spacing == "linspace":
        return np.linspace(0.0, TIMESTEPS - 1.0, steps + 1).round()[:0:-1]
    if schedule.spacing == "leading":
        step = TIMESTEPS // (steps + 1)
        return np.arange(steps + 1, dtype=np.float64)[:0:-1] * step + schedule.steps_offset
    return _trailing(steps)


def _trailing(steps: int) -> Table:
    return np.arange(TIMESTEPS, 0, -TIMESTEPS / steps)[:steps].round() - 1.0


def karras_ratios(highest: float, lowest: float, steps: int) -> Table:
    """`steps` noise ratios between two, close together where there is little noise."""
    ends = np.array([highest, lowest]) ** (1.0 / KARRAS_RHO)
    table: Table = (ends[0] + np.linspace(0.0, 1.0, steps) * (ends[1] - ends[0])) ** KARRAS_RHO
    return table


def timesteps_of(ratios: Table, schedule: DiffusionSchedule) -> Table:
    """Where on the trained levels these noise ratios lie, between them on the log scale."""
    trained = np.log(schedule.noise_ratio())
    table: Table = np.interp(np.log(ratios), trained, np.arange(TIMESTEPS, dtype=np.float64))
    return table
