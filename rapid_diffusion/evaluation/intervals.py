"""Means with bootstrap intervals over groups: pictures of one concept are not independent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 2000
Interval = tuple[float, float]


def rounded(value: float) -> float:
    """Four significant digits: more would only look like knowledge."""
    return float(f"{value:.4g}")


def mean_and_interval(
    values: ArrayLike, groups: Sequence[str], rounds: int = ROUNDS
) -> tuple[float, Interval]:
    """The mean of `values` (N,) and its 95 % interval, whole groups resampled with seed 0."""
    numbers = np.asarray(values, dtype=np.float64)
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    owner = np.array([names[name] for name in groups])
    sums = np.bincount(owner, numbers, len(names))
    sizes = np.bincount(owner, minlength=len(names))
    generator = np.random.default_rng(0)
    drawn: NDArray[np.int64] = generator.integers(0, len(names), (rounds, len(names)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(numbers.mean()), (float(low), float(high))


def compared(
    what: str, model: ArrayLike, against: ArrayLike | None, groups: Sequence[str]
) -> dict[str, Any]:
    """A row of a table: the model's mean, the other's, and the paired difference of the two.

    The values are paired: place i of both is the same sentence with the same seed.
    """
    values = np.asarray(model, dtype=np.float64)
    row: dict[str, Any] = {"what": what, "pictures": len(values), **_entry("model", values, groups)}
    if against is not None:
        others = np.asarray(against, dtype=np.float64)
        row |= _entry("against", others, groups)
        row |= _entry("difference", values - others, groups)
    return row


def _entry(name: str, values: NDArray[np.float64], groups: Sequence[str]) -> dict[str, Any]:
    mean, (low, high) = mean_and_interval(values, groups)
    return {name: rounded(mean), f"{name}_interval": [rounded(low), rounded(high)]}
