"""Every sampler is a table of numbers, one row a step.

With D = skip · x + out · model(scale · x, timestep) the clean estimate, a step is
x' = a · x + b · D + c · D_previous + s · noise. So rows with other samplers, steps and guidance
share one call of the denoiser, and a sampler has no hidden state.

D from what the model gives, x = alpha · x_0 + sigma · noise: epsilon (x - sigma · m) / alpha,
v alpha · x - sigma · m, flow x - sigma · m. Each table goes the way of the `diffusers` scheduler
named in its docstring. Samplers of two evaluations a step (Heun) do not fit and are not here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rapid_diffusion.denoising.schedules import (
    TIMESTEPS,
    DiffusionSchedule,
    Table,
    flow_times,
    inner_timesteps,
    karras_ratios,
    spaced_timesteps,
    timesteps_of,
)
from rapid_diffusion.errors import InvalidRequestError

#: The levels that latent consistency models are distilled on, and their boundary's two numbers.
LCM_LEVELS, LCM_TIME_SCALE, LCM_DATA_SIGMA = 50, 10.0, 0.5


class SamplerRow(NamedTuple):
    """One step: the columns of `SamplerTable` by name."""

    timestep: float
    scale: float
    skip: float
    out: float
    a: float
    b: float
    c: float
    s: float


@dataclass(frozen=True)
class SamplerTable:
    """One row a step; every column has shape (steps,), float64.

    Before step i, x is signal[i] · picture + noise[i] · noise; a run from nothing begins with
    `start` · noise, as the schedulers of `diffusers` do.
    """

    timestep: Table
    scale: Table
    skip: Table
    out: Table
    a: Table
    b: Table
    c: Table
    s: Table
    signal: Table
    noise: Table
    start: float = 1.0

    def __len__(self) -> int:
        return len(self.timestep)

    def rows(self) -> Iterator[SamplerRow]:
        """The steps in order, as plain numbers."""
        return (SamplerRow(*values) for values in self.numbers().tolist())

    def numbers(self) -> NDArray[np.float64]:
        """The columns of `SamplerRow` side by side, (steps, 8)."""
        return np.stack([getattr(self, name) for name in SamplerRow._fields], 1)

    @property
    def is_stochastic(self) -> bool:
        """Whether a step adds noise."""
        return bool(self.s.any())

    def part(self, strength: float) -> "SamplerTable":
        """The last `strength` (0 to 1) of the steps: for a picture that is to be changed.

        Start it from `noised`. Its first step knows no estimate before it and is of first order:
        c · D_previous becomes c · D.
        """
        if not 0.0 < strength <= 1.0:
            raise InvalidRequestError("strength", f"{strength}; allowed: above 0, at most 1")
        kept = slice(len(self) - max(1, int(len(self) * strength)), None)
        columns = {f.name: getattr(self, f.name)[kept] for f in fields(self) if f.name != "start"}
        b, c = columns["b"].copy(), columns["c"].copy()
        b[0], c[0] = b[0] + c[0], 0.0
        return replace(self, **columns | {"b": b, "c": c})

    def noised(self, picture: Tensor, noise: Tensor) -> Tensor:
        """Latents of a picture, with as much noise as the first step wants."""
        return float(self.signal[0]) * picture + float(self.noise[0]) * noise


def flow_euler(steps: int, shift: float = 1.0) -> SamplerTable:
    """Euler's method along the flow, `FlowMatchEulerDiscreteScheduler`."""
    times = flow_times(steps, shift)
    ratio = times[1:] / times[:-1]
    return _flow_table(times, a=ratio, b=1.0 - ratio)


def flow_lcm(steps: int, shift: float = 1.0) -> SamplerTable:
    """To the estimate and back into new noise: for models distilled to a few steps.

    `FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)`.
    """
    times = flow_times(steps, shift)
    return _flow_table(times, a=np.zeros(steps), b=1.0 - times[1:], s=times[1:])


def flow_dpmpp_2m(steps: int, shift: float = 1.0) -> SamplerTable:
    """`DPMSolverMultistepScheduler(use_flow_sigmas=True)`."""
    times = flow_times(steps, shift)
    return _flow_table(times, **_dpmpp_2m(1.0 - times, times, noisy=False))


def flow_dpmpp_2m_sde(steps: int, shift: float = 1.0) -> SamplerTable:
    """The same with algorithm_type="sde-dpmsolver++"."""
    times = flow_times(steps, shift)
    return _flow_table(times, **_dpmpp_2m(1.0 - times, times, noisy=True))


def ddim(steps: int, schedule: DiffusionSchedule, eta: float = 0.0) -> SamplerTable:
    """`DDIMScheduler(clip_sample=False)` (Song et al., 2021, equation 12); eta 1 is DDPM."""
    timesteps = spaced_timesteps(schedule, steps).round()
    trained = schedule.alpha_squared()
    here, there = timesteps.astype(int), timesteps.astype(int) - TIMESTEPS // steps
    end = 1.0 if schedule.ends_clean else trained[0]
    now, then = trained[here], np.where(there >= 0, trained[np.maximum(there, 0)], end)
    s = eta * np.sqrt((1.0 - then) / (1.0 - now) * (1.0 - now / then))
    a = np.sqrt(np.maximum(1.0 - then - s**2, 0.0) / (1.0 - now))
    b = np.sqrt(then) - a * np.sqrt(now)
    ratios = np.sqrt((1.0 - now) / now)
    return _diffusion_table(schedule, timesteps, ratios, {"a": a, "b": b, "s": s})


def euler(steps: int, schedule: DiffusionSchedule) -> SamplerTable:
    """`EulerDiscreteScheduler` (Karras et al., 2022, algorithm 1), on x / alpha."""
    timesteps, ratios = _euler_levels(steps, schedule)
    a = ratios[1:] / ratios[:-1]
    return _on_scaled_latents(schedule, timesteps, ratios, a, np.zeros(steps))


def euler_ancestral(steps: int, schedule: DiffusionSchedule) -> SamplerTable:
    """`EulerAncestralDiscreteScheduler`: a step goes too far, and noise fills the gap."""
    timesteps, ratios = _euler_levels(steps, schedule)
    now, then = ratios[:-1], ratios[1:]
    added = then * np.sqrt(1.0 - (then / now) ** 2)
    return _on_scaled_latents(schedule, timesteps, ratios, (then / now) ** 2, added)


def dpmpp_2m(steps: int, schedule: DiffusionSchedule, *, noisy: bool = False) -> SamplerTable:
    """`DPMSolverMultistepScheduler`, algorithm "dpmsolver++"; if noisy, "sde-dpmsolver++"."""
    trained = schedule.noise_ratio()
    if schedule.karras:
        ratios = karras_ratios(trained[-1], trained[0], steps)
        timesteps = timesteps_of(ratios, schedule).round()
    else:
        timesteps = inner_timesteps(schedule, steps)
        ratios = trained[timesteps.astype(int)]
    to_zero = np.append(ratios, 0.0)
    alpha = 1.0 / np.sqrt(to_zero**2 + 1.0)
    columns = _dpmpp_2m(alpha, to_zero * alpha, noisy=noisy)
    return _diffusion_table(schedule, timesteps, ratios, columns)


def lcm(steps: int, schedule: DiffusionSchedule) -> SamplerTable:
    """`LCMScheduler` (Luo et al., 2023): to the estimate, and back into new noise.

    More than 50 steps are taken on as many levels.
    """
    levels = max(LCM_LEVELS, steps)
    trained = schedule.alpha_squared()
    origin = np.arange(levels, 0, -1) * (TIMESTEPS // levels) - 1
    timesteps = origin[np.linspace(0, levels, steps, endpoint=False).astype(int)]
    now = trained[timesteps]
    then = np.append(now[1:], 1.0)
    scaled = (timesteps * LCM_TIME_SCALE / LCM_DATA_SIGMA) ** 2
    columns = {"a": np.zeros(steps), "b": np.sqrt(then), "s": np.sqrt(1.0 - then)}
    table = _diffusion_table(schedule, timesteps * 1.0, np.sqrt((1.0 - now) / now), columns)
    # The boundary condition: near time 0 the estimate is x itself.
    skip, out = 1.0 / (scaled + 1.0), np.sqrt(scaled / (scaled + 1.0))
    return replace(table, skip=out * table.skip + skip, out=out * table.out)


def _dpmpp_2m(alpha: Table, sigma: Table, *, noisy: bool) -> dict[str, Table]:
    """DPM-Solver++ 2M (Lu et al., 2022, algorithm 2) between levels; ends are of first order.

    Its SDE form (appendix A of the same) halves every signal-to-noise ratio on the way and makes
    the loss good with noise.
    """
    with np.errstate(divide="ignore"):
        log_ratio = np.log(alpha) - np.log(sigma)
    step_size = np.diff(log_ratio)
    half = np.zeros(len(step_size))  # 1 / 2r, with r = previous step size / this one
    half[1:-1] = 0.5 * step_size[1:-1] / step_size[:-2]
    decay = -2.0 * step_size if noisy else -step_size
    b = alpha[1:] * -np.expm1(decay)
    a = sigma[1:] / sigma[:-1] * (np.exp(-step_size) if noisy else 1.0)
    s = sigma[1:] * np.sqrt(-np.expm1(decay)) if noisy else np.zeros(len(b))
    return {"a": a, "b": b * (1.0 + half), "c": -b * half, "s": s}


def _euler_levels(steps: int, schedule: DiffusionSchedule) -> tuple[Table, Table]:
    """Timesteps (steps,) and noise ratios (steps + 1,), ending at 0."""
    timesteps = spaced_timesteps(schedule, steps)
    ratios = np.interp(timesteps, np.arange(TIMESTEPS), schedule.noise_ratio())
    if schedule.karras:
        ratios = karras_ratios(ratios[0], ratios[-1], steps)
        timesteps = timesteps_of(ratios, schedule)
    return timesteps, np.append(ratios, 0.0)


def _flow_table(
    times: Table, *, a: Table, b: Table, c: Table | None = None, s: Table | None = None
) -> SamplerTable:
    now, ones, zeros = times[:-1], np.ones(len(times) - 1), np.zeros(len(times) - 1)
    c, s = zeros if c is None else c, zeros if s is None else s
    return SamplerTable(TIMESTEPS * now, ones, ones, -now, a, b, c, s, 1.0 - now, now)


def _diffusion_table(
    schedule: DiffusionSchedule, timesteps: Table, ratios: Table, columns: dict[str, Table]
) -> SamplerTable:
    """On x itself; `ratios` (steps,) are sigma / alpha before each step."""
    ones, zeros = np.ones(len(timesteps)), np.zeros(len(timesteps))
    alpha = 1.0 / np.sqrt(ratios**2 + 1.0)
    sigma = ratios * alpha
    estimate = (1.0 / alpha, -ratios) if schedule.prediction == "epsilon" else (alpha, -sigma)
    a, b, c, s = (columns.get(name, zeros) for name in "abcs")
    return SamplerTable(timesteps, ones, *estimate, a, b, c, s, alpha, sigma)


def _on_scaled_latents(
    schedule: DiffusionSchedule, timesteps: Table, ratios: Table, a: Table, s: Table
) -> SamplerTable:
    """On x / alpha, whose noise is sigma / alpha: x' = a · x + (1 - a) · D + s · noise."""
    now, ones = ratios[:-1], np.ones(len(timesteps))
    alpha = 1.0 / np.sqrt(now**2 + 1.0)
    epsilon = schedule.prediction == "epsilon"
    estimate = (ones, -now) if epsilon else (alpha**2, -now * alpha)
    start = float(now.max() if schedule.spacing != "leading" else np.hypot(now.max(), 1.0))
    zeros = np.zeros(len(timesteps))
    return SamplerTable(timesteps, alpha, *estimate, a, 1.0 - a, zeros, s, ones, now, start)


def _karras(sampler: Callable[[int, DiffusionSchedule], SamplerTable]) -> "DiffusionSampler":
    return lambda steps, schedule: sampler(steps, replace(schedule, karras=True))


def _dpmpp_2m_sde(steps: int, schedule: DiffusionSchedule) -> SamplerTable:
    return dpmpp_2m(steps, schedule, noisy=True)


DiffusionSampler = Callable[[int, DiffusionSchedule], SamplerTable]

#: Of flow models: name -> function of (steps, shift). To add one, add a function giving a table.
SAMPLERS: dict[str, Callable[[int, float], SamplerTable]] = {
    "dpmpp_2m": flow_dpmpp_2m,
    "dpmpp_2m_sde": flow_dpmpp_2m_sde,
    "flow_euler": flow_euler,
    "lcm": flow_lcm,
}
#: Of diffusion models (epsilon and v): name -> function of (steps, schedule).
DIFFUSION_SAMPLERS: dict[str, DiffusionSampler] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_karras": _karras(dpmpp_2m),
    "dpmpp_2m_sde": _dpmpp_2m_sde,
    "dpmpp_2m_sde_karras": _karras(_dpmpp_2m_sde),
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "euler_karras": _karras(euler),
    "lcm": lcm,
}
