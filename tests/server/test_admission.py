"""Admission counts seconds of work, and says how long to wait."""

import pytest

from server.admission import Estimator, Measured

DEFAULTS = {"num_inference_steps": 10, "guidance_scale": 5.0}
RUN = Measured({"num_inference_steps": 10}, {"text": 0.5, "denoise": 2.0, "decode": 0.5})


def test_what_was_measured_is_predicted() -> None:
    assert Estimator(DEFAULTS, [RUN]).predict(RUN.arguments) == pytest.approx(3.0)


def test_twice_the_pictures_take_twice_the_time() -> None:
    estimator = Estimator(DEFAULTS, [RUN])
    assert estimator.predict({"num_images_per_prompt": 2}) == pytest.approx(6.0)


def test_candidates_cost_what_pictures_cost() -> None:
    estimator = Estimator(DEFAULTS, [RUN])
    several = {"num_images_per_prompt": 2, "num_candidates": 4}
    assert estimator.predict(several) == pytest.approx(8 * 3.0)


def test_no_guidance_halves_the_steps() -> None:
    assert Estimator(DEFAULTS, [RUN]).predict({"guidance_scale": 1.0}) == pytest.approx(2.0)


def test_estimates_follow_a_machine_that_slows_down() -> None:
    estimator = Estimator(DEFAULTS, [RUN])
    slow = Measured(RUN.arguments, {name: 4 * s for name, s in RUN.timings.items()})
    for _ in range(30):
        estimator.observe(slow)
    assert estimator.predict(RUN.arguments) == pytest.approx(12.0, rel=0.05)
