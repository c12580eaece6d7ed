"""Best of several, as CogView ranks its own drawings (Ding et al., 2021, section 3.3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.request import Request, check_integer
from rapid_diffusion.seeds import mixed_seed

MOST_CANDIDATES = 16


@dataclass(frozen=True)
class Candidates:
    """What one picture was chosen from: seeds and scores (cosines in [-1, 1]), in order.

    The first seed is the one asked for; `chosen` is the place of the best score.
    """

    seeds: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def chosen(self) -> int:
        """The place of the best, of equals the first."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def seed(self) -> int:
        """The seed that draws the chosen picture alone."""
        return self.seeds[self.chosen]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; scores rounded to four digits."""
        return {
            "count": len(self.seeds),
            "seeds": list(self.seeds),
            "scores": [round(score, 4) for score in self.scores],
            "chosen": self.chosen,
        }


def candidate_seed(seed: int, place: int) -> int:
    """The seed of candidate `place` of the picture with that seed: `seed` itself for place 0.

    For the others `mixed_seed` of `SEED/candidate/PLACE`.
    """
    return seed if place == 0 else mixed_seed(seed, "candidate", place)


def check_candidates(count: object, most: int, name: str) -> int:
    """A number of candidates that the model can choose from; raises `InvalidRequestError`."""
    number = check_integer("num_candidates", count, 1, MOST_CANDIDATES)
    if number > most:
        raise InvalidRequestError(
            "num_candidates",
            f"{number}; allowed: 1, since model {name!r} has no image tower to choose by. "
            "Write its folder again with `rapid-diffusion train CONFIG --stage model`",
        )
    return number


def rounds(request: Request, count: int) -> Iterator[Request]:
    """The request `count` times, each time with the seeds of the next candidates.

    A candidate is drawn in the batch that its picture would be drawn in alone, so that candidate 0
    is to the bit the picture of a call without candidates.
    """
    for place in range(count):
        yield replace(request, seeds=tuple(candidate_seed(seed, place) for seed in request.seeds))


def choose(
    request: Request, images: Sequence[Tensor], scores: Sequence[Tensor]
) -> tuple[Tensor, list[Candidates]]:
    """The best image of each row (B, 3, H, W) out of one batch (and its scores (B,)) a round."""
    seeds = [turn.seeds for turn in rounds(request, len(images))]
    candidates = [
        Candidates(of_row, tuple(float(score[row]) for score in scores))
        for row, of_row in enumerate(zip(*seeds, strict=True))
    ]
    best = [images[found.chosen][row] for row, found in enumerate(candidates)]
    return torch.stack(best), candidates
