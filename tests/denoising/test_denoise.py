"""The front of the engine for one call: guidance, callbacks, and numbers that are none."""

import pytest
import torch

from rapid_diffusion.denoising.engine import Engine, Guidance, denoise, row_noise
from rapid_diffusion.denoising.samplers import flow_euler
from rapid_diffusion.errors import CanceledError, InvalidRequestError, NumericalError
from rapid_diffusion.text.encoder import TextStates

SHAPE = (2, 3, 3)


def states(value, rows=3):
    return TextStates(torch.full((rows, 1, 1), value), torch.ones(rows, 1, dtype=torch.bool))


def noise(rows=3):
    return torch.stack([row_noise(seed, SHAPE) for seed in range(rows)])


def follow_text(rows, timesteps, hidden, mask):
    """A field that the sentence pulls on."""
    return 0.5 * rows - hidden[:, :, :, None]


def test_the_noise_of_a_seed_does_not_depend_on_its_neighbours():
    assert torch.equal(noise(3)[1], noise(2)[1])
    assert torch.equal(noise(3)[1], row_noise(1, SHAPE))


def test_guidance_of_scale_1_is_no_guidance():
    guided = denoise(follow_text, noise(), states(2.0), flow_euler(5), Guidance(1.0, states(-1.0)))
    assert torch.allclose(guided, denoise(follow_text, noise(), states(2.0), flow_euler(5)))


def test_guidance_leads_away_from_the_negative_prompt():
    guided = denoise(follow_text, noise(), states(2.0), flow_euler(5), Guidance(3.0, states(1.0)))
    # The field is linear in the text: 1 + 3 · (2 - 1) = 4.
    assert torch.allclose(guided, denoise(follow_text, noise(), states(4.0), flow_euler(5)))


def test_the_callback_sees_every_step_in_order_with_the_latents():
    seen = []
    drawn = denoise(
        follow_text,
        noise(),
        states(1.0),
        flow_euler(4),
        callback=lambda step, steps, latents: seen.append((step, steps, latents)),
    )
    assert [(step, steps) for step, steps, _ in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert torch.equal(seen[-1][2], drawn)
    assert not torch.equal(seen[0][2], drawn)


def test_an_error_in_the_callback_stops_the_run_at_once():
    calls = []

    def stop(step, steps, latents):
        calls.append(step)
        if step == 1:
            raise CanceledError("enough")

    with pytest.raises(CanceledError, match="enough"):
        denoise(follow_text, noise(), states(1.0), flow_euler(9), callback=stop)
    assert calls == [0, 1]


def test_a_nan_is_an_error_that_names_its_rows():
    def spoil(rows, timesteps, hidden, mask):
        return torch.where(torch.tensor([0, 1, 1])[:, None, None, None] > 0, torch.nan, rows)

    with pytest.raises(NumericalError, match=r"rows \[1, 2\]"):
        denoise(spoil, noise(), states(1.0), flow_euler(2))


@pytest.mark.parametrize("rows", [0, -1, 1.5, "fitt", None])
def test_a_number_of_rows_that_is_none_is_refused(rows):
    with pytest.raises(InvalidRequestError, match="rows"):
        Engine(follow_text, rows)
