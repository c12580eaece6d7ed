"""Means with intervals over groups, and paired differences."""

import numpy as np

from rapid_diffusion.evaluation.intervals import compared, mean_and_interval
from rapid_diffusion.evaluation.retrieval import Query, recall


def test_an_interval_holds_the_mean_and_narrows_with_the_number_of_groups():
    values = np.random.default_rng(0).random(400)
    mean, (low, high) = mean_and_interval(values, [str(i) for i in range(400)])
    assert low < mean < high
    _, (wide_low, wide_high) = mean_and_interval(values, [str(i % 10) for i in range(400)])
    _, (few_low, few_high) = mean_and_interval(values[:20], [str(i) for i in range(20)])
    assert high - low < few_high - few_low
    assert wide_low < wide_high


def test_groups_are_resampled_whole():
    same = mean_and_interval([0, 1] * 10, ["a", "a"] * 10)
    assert same == (0.5, (0.5, 0.5))


def test_the_interval_is_that_of_recall():
    places = [0, 3, 0, 7, 0, 0, 2, 1]
    queries = [Query(None, "abcd"[i // 2], "x") for i in range(8)]
    found = recall(queries, places)
    values = [place < 1 for place in places]
    mean, interval = mean_and_interval(values, [query.concept for query in queries])
    assert (mean, interval) == (found.at_1, found.interval_1)


def test_a_difference_is_paired():
    values = np.random.default_rng(0).random(50)
    row = compared("pairs", values + 0.25, values, [str(i) for i in range(50)])
    assert row["difference"] == 0.25
    assert row["difference_interval"] == [0.25, 0.25]
    low, high = row["model_interval"]
    assert high - low > 0.01
    assert "against" not in compared("pairs", values, None, ["a"] * 50)
