"""Every sampler is a table of numbers, one row a step.

With D = skip · x + out · model(scale · x, timestep) the clean estimate, a step is
x' = a · x + b · D + c · D_previous. So rows with other samplers, steps and guidance share one call
of the denoiser, and a sampler has no hidden state. (A sampler that adds noise needs one column
more, s · noise; there is none yet.)

Flow matching (Lipman et al., 2022; Liu et al., 2022): x_t = (1 - t) · x_0 + t · noise, and the
model gives the velocity noise - x_0, hence D = x - t · model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

#: The model is asked with t times this, as `diffusers` numbers its timesteps.
TIMESTEPS = 1000


class SamplerRow(NamedTuple):
    """One step: the columns of `SamplerTable` by name."""

    timestep: float
    scale: float
    skip: float
    out: float
    a: float
    b: float
    c: float


@dataclass(frozen=True)
class SamplerTable:
    """One row a step; every column has shape (steps,), float64."""

    timestep: Table
    scale: Table
    skip: Table
    out: Table
    a: Table
    b: Table
    c: Table

    def __len__(self) -> int:
        return len(self.timestep)

    def rows(self) -> Iterator[SamplerRow]:
        """The steps in order, as plain numbers."""
        columns = (getattr(self, name).tolist() for name in SamplerRow._fields)
        return (SamplerRow(*values) for values in zip(*columns, strict=True))


def flow_times(steps: int, shift: float = 1.0) -> Table:
    """`steps` + 1 times from 1 (noise) to 0 (picture).

    A shift above 1 spends more of the steps near the noise (Esser et al., 2024, equation 23).
    """
    times = np.linspace(1.0, 0.0, steps + 1)
    return shift * times / (1.0 + (shift - 1.0) * times)


def flow_euler(steps: int, shift: float = 1.0) -> SamplerTable:
    """Euler's method along the flow: x' = x + (t' - t) · velocity."""
    times = flow_times(steps, shift)
    ratio = times[1:] / times[:-1]
    return _flow_table(times, a=ratio, b=1.0 - ratio, c=np.zeros(steps))


def dpmpp_2m(steps: int, shift: float = 1.0) -> SamplerTable:
    """DPM-Solver++ 2M (Lu et al., 2022) on the flow, first and last step of first order."""
    times = flow_times(steps, shift)
    with np.errstate(divide="ignore"):
        log_ratio = np.log1p(-times) - np.log(times)  # lambda = log(alpha / sigma)
    step_size = np.diff(log_ratio)
    b_first = (1.0 - times[1:]) * -np.expm1(-step_size)
    half = np.zeros(steps)  # 1 / 2r, with r = previous step size / this one
    half[2:-1] = 0.5 * step_size[2:-1] / step_size[1:-2]
    return _flow_table(times, a=times[1:] / times[:-1], b=b_first * (1 + half), c=-b_first * half)


def _flow_table(times: Table, *, a: Table, b: Table, c: Table) -> SamplerTable:
    now, ones = times[:-1], np.ones(len(times) - 1)
    return SamplerTable(
        timestep=TIMESTEPS * now,
        scale=ones,
        skip=ones,
        out=-now,
        a=a,
        b=b,
        c=c,
    )


#: Name -> function of (steps, shift). To add a sampler, add a function that returns a table.
SAMPLERS: dict[str, Callable[[int, float], SamplerTable]] = {
    "dpmpp_2m": dpmpp_2m,
    "flow_euler": flow_euler,
}
