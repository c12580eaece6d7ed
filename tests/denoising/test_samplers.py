"""Sampler tables against the schedulers of `diffusers`, and against a flow whose end is known."""

import numpy as np
import pytest
import torch

from rapid_diffusion.denoising.engine import denoise
from rapid_diffusion.denoising.samplers import SAMPLERS, flow_times
from rapid_diffusion.text.encoder import TextStates

STEPS = (1, 2, 3, 4, 5, 15, 20, 50)
STATES = TextStates(torch.zeros(2, 1, 1), torch.ones(2, 1, dtype=torch.bool))


def velocity(rows, timesteps, hidden=None, mask=None):
    """A curved field that looks at the time."""
    return torch.sin(3 * rows + timesteps[:, None, None, None] / 1000) + 0.5 * rows


def noise():
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))


def trajectory(scheduler, times):
    """Where a scheduler of `diffusers` leads, told to go through exactly these times."""
    scheduler.sigmas = torch.from_numpy(times)
    scheduler.set_begin_index(0)
    latents = noise()
    for time, timestep in zip(times, scheduler.timesteps, strict=False):
        output = velocity(latents, torch.full((2,), 1000 * time))
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0].float()
    return latents


def ours(name, steps, shift):
    return denoise(velocity, noise(), STATES, SAMPLERS[name](steps, shift))


# The scheduler of diffusers 0.42 gives a tensor to `np.array`, which numpy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_dpmpp_2m_goes_the_way_of_diffusers(shift):
    from diffusers import DPMSolverMultistepScheduler

    for steps in STEPS:
        scheduler = DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"
        )
        scheduler.set_timesteps(steps)
        theirs = trajectory(scheduler, flow_times(steps, shift))
        error = (ours("dpmpp_2m", steps, shift) - theirs).norm() / theirs.norm()
        assert error < 1e-5, steps


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_goes_the_way_of_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    for steps in STEPS:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1])
        # The shift of times is theirs too, so that ours is checked against it.
        assert np.allclose(scheduler.sigmas, flow_times(steps, shift), atol=1e-6)
        theirs = trajectory(scheduler, flow_times(steps, shift))
        error = (ours("flow_euler", steps, shift) - theirs).norm() / theirs.norm()
        assert error < 1e-5, steps


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 100])
def test_a_straight_flow_ends_exactly_at_its_picture(name, steps):
    start, picture = noise(), torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)

    def straight(rows, timesteps, hidden, mask):
        return start - picture

    drawn = denoise(straight, start, STATES, SAMPLERS[name](steps, 2.0))
    assert torch.allclose(drawn, picture, atol=2e-6)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_number_of_a_table_is_finite_and_times_fall_from_1000(name):
    for steps in range(1, 101):
        table = SAMPLERS[name](steps, 1.0)
        rows = np.array(list(table.rows()))
        assert rows.shape == (len(table), 7) == (steps, 7)
        assert np.isfinite(rows).all()
        assert table.timestep[0] == 1000
        assert (np.diff(table.timestep) < 0).all()
