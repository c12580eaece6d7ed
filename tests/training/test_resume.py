"""A training that is killed with SIGKILL goes on to the same curve and the same bits."""

import pytest
import torch

from benchmarks import resume


@pytest.mark.slow
def test_a_training_killed_twice_has_the_curve_and_the_weights_of_one_that_was_not(tmp_path):
    told = resume.compare(tmp_path, steps=24, kills=2, seed=0)
    assert [kill["exit_code"] for kill in told["kills"]] == [-9, -9]
    assert told["curve_equal"]
    assert told["state_equal"]
    assert told["lines"] == 24


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": [torch.ones(2)]}, {"a": [torch.ones(2)]}, True),
        ({"a": [torch.ones(2)]}, {"a": [torch.ones(2) + 1e-7]}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1, 2], [1], False),
    ],
)
def test_the_comparison_sees_the_last_bit(one, other, equal):
    assert resume.same(one, other) is equal
