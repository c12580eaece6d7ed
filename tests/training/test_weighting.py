"""Min-SNR-gamma for the velocity of a flow."""

import math

import pytest
import torch

from rapid_diffusion.training.weighting import velocity_weights


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_the_weighted_velocity_error_is_min_snr_times_the_error_of_the_clean_estimate(gamma):
    generator = torch.Generator().manual_seed(0)
    clean, noise, given = torch.randn(3, 64, 5, generator=generator, dtype=torch.float64)
    times = torch.linspace(0.01, 0.99, 64, dtype=torch.float64)
    at = times[:, None]
    noisy = (1 - at) * clean + at * noise
    error = (noisy - at * given - clean).square().mean(1)
    snr = ((1 - times) / times).square()
    of_velocity = (given - (noise - clean)).square().mean(1)
    weights = velocity_weights(times, "min_snr", gamma)
    assert torch.allclose(weights * of_velocity, snr.clamp(max=gamma) * error)


def test_the_weight_has_its_summit_where_the_snr_is_gamma():
    times = torch.linspace(0, 1, 10001, dtype=torch.float64)
    weights = velocity_weights(times, "min_snr", 5.0)
    assert float(times[weights.argmax()]) == pytest.approx(1 / (1 + math.sqrt(5)), abs=1e-4)
    assert float(weights.max()) == pytest.approx(5 / (1 + math.sqrt(5)) ** 2, abs=1e-4)
    assert (weights[0], weights[-1]) == (0, 0)


def test_without_weighting_every_moment_counts_as_much():
    times = torch.rand(5)
    assert torch.equal(velocity_weights(times, "none", 5.0), torch.ones(5))
