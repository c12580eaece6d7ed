"""How far apart two sets of pictures are, by their features: FID and KID.

FID: Heusel et al., 2017 (arXiv 1706.08500). KID: Binkowski et al., 2018 (arXiv 1801.01401). Both
are taken at equal numbers of pictures: FID has a bias that falls with the number and does not
cancel otherwise. Features here are not those of Inception: compare figures of one judge only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapid_diffusion.errors import InvalidRequestError

Features = NDArray[np.float64]
SUBSETS = 50
SUBSET = 50


@dataclass(frozen=True)
class Spread:
    """A mean over subsets, and the standard deviation from subset to subset."""

    mean: float
    deviation: float


def check_equal(first: Features, second: Features) -> None:
    """Two sets (N, F) of the same shape, N >= 2; raises `InvalidRequestError`."""
    if first.ndim != 2 or first.shape != second.shape or len(first) < 2:
        raise InvalidRequestError(
            "features",
            f"{first.shape} and {second.shape}; two sets (N, F) of equal size, N at least 2, are "
            "wanted: the bias depends on N",
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InvalidRequestError("features", "NaN or infinity; look for the picture it is from")


def fid(
    first: Features,
    second: Features,
    weights: NDArray[np.int64] | None = None,
    other_weights: NDArray[np.int64] | None = None,
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features (N, F).

    With C = X'X and X the centred features over sqrt(N - 1), tr (C1 C2)^(1/2) is the sum of the
    singular values of X1 X2'. So no root of a matrix is taken and nothing is squared that would
    lose digits, also where there are fewer pictures than features. `weights` count how often each
    picture is taken (for a bootstrap).
    """
    check_equal(first, second)
    mean, root = _centred(first, weights)
    other_mean, other_root = _centred(second, other_weights)
    apart = float(((mean - other_mean) ** 2).sum())
    traces = float((root**2).sum() + (other_root**2).sum())
    shared = float(np.linalg.svd(root @ other_root.T, compute_uv=False).sum())
    return max(0.0, apart + traces - 2 * shared)


def _centred(features: Features, weights: NDArray[np.int64] | None) -> tuple[Features, Features]:
    """The mean (F,) and a root R (min(N, F), F) of the covariance: C = R'R."""
    counts = np.ones(len(features)) if weights is None else weights.astype(np.float64)
    mean = counts @ features / counts.sum()
    scaled = (features - mean) * np.sqrt(counts / (counts.sum() - 1))[:, None]
    if len(scaled) <= scaled.shape[1]:
        return mean, scaled
    root: Features = np.linalg.qr(scaled, mode="r")  # type: ignore[assignment]
    return mean, root


def kernel(first: Features, second: Features) -> Features:
    """(x . y / F + 1)^3 of all pairs, (N, M)."""
    product: Features = first @ second.T / first.shape[1]
    return (product + 1) ** 3


def kid(
    first: Features, second: Features, subset: int = SUBSET, subsets: int = SUBSETS, seed: int = 0
) -> Spread:
    """The unbiased squared MMD of subsets; it may be below zero where the sets are alike.

    Subsets have `subset` pictures, or half of those there are.
    """
    check_equal(first, second)
    size = max(2, min(subset, len(first) // 2))
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        rows = generator.choice(len(first), size, replace=False)
        columns = generator.choice(len(second), size, replace=False)
        values.append(KernelDistance(first[rows], second[columns]).value())
    return Spread(float(np.mean(values)), float(np.std(values)))


class KernelDistance:
    """The kernels within and between two sets, kept for many resamplings."""

    def __init__(self, first: Features, second: Features) -> None:
        check_equal(first, second)
        self.within, self.other = kernel(first, first), kernel(second, second)
        self.between = kernel(first, second)

    def value(
        self,
        weights: NDArray[np.int64] | None = None,
        other_weights: NDArray[np.int64] | None = None,
    ) -> float:
        """The unbiased squared MMD; a picture that is taken twice is not compared with itself."""
        ones = np.ones(len(self.within))
        left = ones if weights is None else weights.astype(np.float64)
        right = ones if other_weights is None else other_weights.astype(np.float64)
        cross = left @ self.between @ right / (left.sum() * right.sum())
        return float(
            _mean_of_pairs(self.within, left) + _mean_of_pairs(self.other, right) - 2 * cross
        )


def _mean_of_pairs(kernels: Features, counts: Features) -> float:
    same = counts**2
    pairs = counts.sum() ** 2 - same.sum()
    return float((counts @ kernels @ counts - same @ np.diag(kernels)) / pairs)


def resampled(count: int, rounds: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each of `count` pictures is taken in each round (rounds, count).

    At least two different ones are: one alone has no pairs.
    """
    generator = np.random.default_rng(seed)
    kept = np.zeros((0, count), dtype=np.int64)
    while len(kept) < rounds:
        drawn = generator.multinomial(count, np.full(count, 1 / count), rounds)
        kept = np.concatenate([kept, drawn[drawn.max(1) < count]])
    return kept[:rounds]
