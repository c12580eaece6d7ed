"""Sampler tables against the schedulers of `diffusers`, and against a flow whose end is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_diffusion.denoising.engine import denoise
from rapid_diffusion.denoising.samplers import DIFFUSION_SAMPLERS, SAMPLERS, ddim
from rapid_diffusion.denoising.schedules import DiffusionSchedule, flow_times
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.text.encoder import TextStates

STEPS = (1, 2, 3, 4, 5, 7, 10, 14, 15, 20, 33, 50)
STATES = TextStates(torch.zeros(2, 1, 1), torch.ones(2, 1, dtype=torch.bool))
SPACINGS = ("leading", "trailing", "linspace")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
#: Name -> their class and what it is told.
THEIRS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", SDE | KARRAS),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", KARRAS),
    "lcm": ("LCMScheduler", {}),
}
# The scheduler of diffusers 0.42 gives a tensor to `np.array`, which numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def model(rows, timestep):
    """A curved field that looks at the time."""
    return 0.5 * torch.sin(rows + timestep / 500) + 0.5 * rows


def velocity(rows, timesteps, hidden=None, mask=None):
    return torch.sin(3 * rows + timesteps[:, None, None, None] / 1000) + 0.5 * rows


def noise(dtype=torch.float32):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5)).to(dtype)


def scheduler_of(name, **told):
    import diffusers

    kind, own = THEIRS[name]
    return getattr(diffusers, kind)(**BETAS | own | told)


def their_way(scheduler, latents, steps, first=0, **told):
    """Where a scheduler of `diffusers` leads from `latents` before step `first`."""
    generator = torch.Generator().manual_seed(9)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    for timestep in scheduler.timesteps[first:]:
        output = model(scheduler.scale_model_input(latents, timestep), float(timestep))
        latents = scheduler.step(output, timestep, latents, generator=generator, **told)[0]
    return latents


def our_way(table, latents):
    """The contract of a table, as plainly as it can be written."""
    generator, previous = torch.Generator().manual_seed(9), torch.zeros_like(latents)
    for row in table.rows():
        output = model(row.scale * latents, row.timestep)
        clean = row.skip * latents + row.out * output
        latents = row.a * latents + row.b * clean + row.c * previous
        if row.s:
            latents = latents + row.s * torch.randn(noise().shape, generator=generator)
        previous = clean
    return latents


def differ(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", sorted(DIFFUSION_SAMPLERS))
def test_a_diffusion_sampler_goes_the_way_of_diffusers(name, spacing, prediction):
    theirs = scheduler_of(name, prediction_type=prediction, timestep_spacing=spacing)
    for steps in STEPS:
        theirs.set_timesteps(steps)
        table = DIFFUSION_SAMPLERS[name](steps, DiffusionSchedule(prediction, spacing))
        assert len(table) == len(theirs.timesteps) == steps
        assert np.allclose(table.timestep, theirs.timesteps, atol=2e-3), steps
        assert table.start == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)
        began = table.start * noise()
        assert differ(our_way(table, began), their_way(theirs, began, steps)) < 1e-5, steps


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("told", [{}, {"steps_offset": 1, "set_alpha_to_one": False}])
def test_ddim_with_noise_and_with_the_ends_of_stable_diffusion(eta, told):
    theirs = scheduler_of("ddim", **told)
    schedule = DiffusionSchedule(
        steps_offset=told.get("steps_offset", 0), ends_clean=told.get("set_alpha_to_one", True)
    )
    for steps in STEPS:
        theirs.set_timesteps(steps)
        ours = our_way(ddim(steps, schedule, eta), noise())
        assert differ(ours, their_way(theirs, noise(), steps, eta=eta)) < 1e-5, steps


def test_in_float64_ddim_agrees_to_ten_digits():
    theirs = scheduler_of("ddim", timestep_spacing="trailing")
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    for steps in STEPS:
        theirs.set_timesteps(steps)
        ours = our_way(ddim(steps, DiffusionSchedule(spacing="trailing")), noise(torch.float64))
        assert differ(ours, their_way(theirs, noise(torch.float64), steps)) < 1e-10, steps


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "dpmpp_2m_sde_karras", "euler"])
@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
def test_a_picture_is_changed_as_diffusers_changes_it(name, strength):
    theirs, picture = scheduler_of(name), torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)
    for steps in (4, 10, 20):
        theirs.set_timesteps(steps)
        first = steps - min(int(steps * strength), steps)
        table = DIFFUSION_SAMPLERS[name](
            steps, DiffusionSchedule(spacing=theirs.config.timestep_spacing)
        ).part(strength)
        if hasattr(theirs, "set_begin_index"):
            theirs.set_begin_index(first)
        began = theirs.add_noise(picture, noise(), theirs.timesteps[first : first + 1].repeat(2))
        assert differ(table.noised(picture, noise()), began) < 1e-5
        ours = our_way(table, table.noised(picture, noise()))
        assert differ(ours, their_way(theirs, began, steps, first)) < 1e-5, steps


@pytest.mark.parametrize("strength", [0.0, 1.5, -1.0, float("nan")])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(InvalidRequestError, match="strength"):
        SAMPLERS["flow_euler"](4, 1.0).part(strength)


def flow_way(scheduler, times):
    """Where a flow scheduler of `diffusers` leads, told to go through exactly these times."""
    scheduler.sigmas = torch.from_numpy(times)
    scheduler.set_begin_index(0)
    latents, generator = noise(), torch.Generator().manual_seed(9)
    for time, timestep in zip(times, scheduler.timesteps, strict=False):
        output = model(latents, 1000 * time)
        latents = scheduler.step(output, timestep, latents, generator=generator)[0].float()
    return latents


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "told"), [("dpmpp_2m", {}), ("dpmpp_2m_sde", SDE)])
def test_dpmpp_2m_on_a_flow_goes_the_way_of_diffusers(name, told, shift):
    from diffusers import DPMSolverMultistepScheduler

    for steps in STEPS:
        scheduler = DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", **told
        )
        scheduler.set_timesteps(steps)
        theirs = flow_way(scheduler, flow_times(steps, shift))
        assert differ(our_way(SAMPLERS[name](steps, shift), noise()), theirs) < 1e-5, steps


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "stochastic"), [("flow_euler", False), ("lcm", True)])
def test_euler_on_a_flow_goes_the_way_of_diffusers(name, stochastic, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    for steps in STEPS:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, stochastic_sampling=stochastic)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1])
        # The shift of times is theirs too, so that ours is checked against it.
        assert np.allclose(scheduler.sigmas, flow_times(steps, shift), atol=1e-6)
        theirs = flow_way(scheduler, flow_times(steps, shift))
        assert differ(our_way(SAMPLERS[name](steps, shift), noise()), theirs) < 1e-5, steps


@pytest.mark.parametrize("name", ["dpmpp_2m", "flow_euler"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 100])
def test_a_straight_flow_ends_exactly_at_its_picture(name, steps):
    start, picture = noise(), torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)

    def straight(rows, timesteps, hidden, mask):
        return start - picture

    drawn = denoise(straight, start, STATES, SAMPLERS[name](steps, 2.0))
    assert torch.allclose(drawn, picture, atol=2e-6)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_number_of_a_flow_table_is_finite_and_times_fall_from_1000(name):
    for steps in range(1, 101):
        table = SAMPLERS[name](steps, 1.0)
        assert table.numbers().shape == (len(table), 8) == (steps, 8)
        assert np.isfinite(table.numbers()).all()
        assert table.timestep[0] == 1000
        assert (np.diff(table.timestep) < 0).all()


@pytest.mark.parametrize("name", sorted(DIFFUSION_SAMPLERS))
def test_every_number_of_a_diffusion_table_is_finite_for_1_to_100_steps(name):
    for spacing in SPACINGS:
        for steps in range(1, 101):
            table = DIFFUSION_SAMPLERS[name](steps, DiffusionSchedule(spacing=spacing))
            assert table.numbers().shape == (steps, 8)
            assert np.isfinite(table.numbers()).all()
            assert table.s[-1] == 0.0 or name == "ddim"


def test_a_table_says_whether_it_adds_noise():
    assert SAMPLERS["dpmpp_2m_sde"](4, 1.0).is_stochastic
    assert not SAMPLERS["dpmpp_2m"](4, 1.0).is_stochastic
    assert ddim(4, DiffusionSchedule(), 1.0).is_stochastic
    assert not replace(SAMPLERS["lcm"](1, 1.0)).is_stochastic  # one step ends without noise
