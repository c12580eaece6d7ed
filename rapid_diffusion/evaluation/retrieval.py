"""Is the right thing found? Recall at k, with bootstrap intervals over concepts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Gallery:
    """Real pictures: features (N, F) of unit length, and what each shows, in which style."""

    features: Tensor
    concepts: list[str]
    styles: list[str]


@dataclass(frozen=True)
class Query:
    """A picture to be judged: features (F,), what it should show, and its style."""

    features: Tensor
    concept: str
    style: str


@dataclass(frozen=True)
class Recall:
    """Shares in [0, 1]; `interval_*` is the 95 % bootstrap interval over concepts."""

    at_1: float
    interval_1: tuple[float, float]
    at_5: float
    interval_5: tuple[float, float]
    queries: int
    concepts: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON, rounded to four digits."""
        return {
            key: [round(v, 4) for v in value] if isinstance(value, tuple) else round(value, 4)
            for key, value in asdict(self).items()
        }


def ranks(queries: Sequence[Query], gallery: Gallery, among: Sequence[str]) -> list[int]:
    """For each query the place (from 0) of its own concept among the concepts of `among`.

    A concept is as near as the nearest of its real pictures in *other* styles than the query's.
    The query's own concept is always among them.
    """
    columns = {concept: i for i, concept in enumerate(dict.fromkeys(gallery.concepts))}
    owner = torch.tensor([columns[concept] for concept in gallery.concepts])
    allowed = torch.tensor([columns[concept] for concept in among])
    places = []
    for query in queries:
        similarity = gallery.features @ query.features
        same_style = torch.tensor([style == query.style for style in gallery.styles])
        similarity = similarity.masked_fill(same_style, -2.0)
        best = torch.full((len(columns),), -2.0).scatter_reduce(0, owner, similarity, "amax")
        own = best[columns[query.concept]]
        others = best[allowed[allowed != columns[query.concept]]]
        places.append(int((others > own).sum()))
    return places


def recall(queries: Sequence[Query], places: Sequence[int], rounds: int = 2000) -> Recall:
    """Recall at 1 and 5 from `ranks`, resampling concepts for the intervals."""
    groups: dict[str, list[int]] = {}
    for query, place in zip(queries, places, strict=True):
        groups.setdefault(query.concept, []).append(place)
    at_1, interval_1 = _bootstrap(groups, 1, rounds)
    at_5, interval_5 = _bootstrap(groups, 5, rounds)
    return Recall(at_1, interval_1, at_5, interval_5, len(places), len(groups))


def _bootstrap(
    groups: dict[str, list[int]], k: int, rounds: int
) -> tuple[float, tuple[float, float]]:
    found = np.array([sum(place < k for place in group) for group in groups.values()])
    sizes = np.array([len(group) for group in groups.values()])
    generator = np.random.default_rng(0)
    drawn: NDArray[np.int64] = generator.integers(0, len(found), (rounds, len(found)))
    shares = found[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(found.sum() / sizes.sum()), (float(low), float(high))
