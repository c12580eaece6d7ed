"""Rough pictures of the pairs of concept and style that training has no picture of.

A draft learns the mean of all pictures that fit a sentence; of a pair that nobody drew it has to
guess, and guesses a blot. The concept's pictures in other styles say more: how patches of one style
go with those at the same place in the others is a ridge regression over all concepts. The
regression knows colours and shading, but is blurred where artists place things differently; so the
picture in the nearest style is laid over it, half and half. Good enough to draft from, and too
rough for a UNet to learn to draw by. Only pictures of the training are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.emoji_zh.pictures import STYLES

PATCH = 8
#: How much of the picture in the nearest style; see docs/log.md for what others give.
LAID_OVER = 0.5
#: Of the mean variance of an input, added to the regression's diagonal.
RIDGE = 1e-2
#: Share of the other pictures left out while the regression is fitted: any of them may be missing.
LEFT_OUT = 0.1
_CONCEPTS_AT_ONCE = 64

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Missing:
    """A pair without a picture, the row of its picture in the nearest style, and a rough one."""

    code: str
    style: str
    nearest: int
    picture: NDArray[np.uint8]


def missing_pairs(rows: Sequence[dict[str, Any]], pictures: NDArray[np.uint8]) -> list[Missing]:
    """Rough pictures (S, S, 3) for all pairs of a concept and a style that no training row shows.

    `pictures` (N, S, S, 3) are those of the rows; rows that are held out are passed over.
    """
    codes = sorted({row["code"] for row in rows})
    styles = list(STYLES)
    places = np.full((len(codes), len(styles)), -1)
    for place, row in enumerate(rows):
        if row["split"] == "train":
            places[codes.index(row["code"]), styles.index(row["style"])] = place
    grid = _Grid(places, pictures)
    shown = places >= 0
    made = []
    for number in np.flatnonzero(shown.any(0)):
        style = styles[number]
        wanted = np.flatnonzero(~shown[:, number] & shown.any(1))
        for concept, (nearest, picture) in zip(wanted, grid.complete(wanted, number), strict=True):
            made.append(Missing(codes[concept], style, nearest, picture))
    return made


class _Grid:
    """The pictures by concept and style, as what sets them apart from the mean of their style."""

    def __init__(self, places: NDArray[np.int64], pictures: NDArray[np.uint8]) -> None:
        self.places = places
        self.pictures = pictures
        self.styles = places.shape[1]
        self.means = [self._mean(style) for style in range(self.styles)]

    def _mean(self, style: int) -> Floats:
        shown = self.pictures[self.places[self.places[:, style] >= 0, style]]
        return _unit(shown).sum(0) / np.float32(max(1, len(shown)))

    def complete(
        self, concepts: NDArray[np.int64], style: int
    ) -> list[tuple[int, NDArray[np.uint8]]]:
        """For each concept the row in the nearest style, and a rough picture in `style`."""
        weights, order = self._regression(style), self._nearest(style)
        done = []
        for concept in concepts:
            nearest = next(other for other in order if self.places[concept, other] >= 0)
            given = self._patches(np.array([concept]), style)
            regressed = _joined_patches(given @ weights, self.pictures.shape[1])[0]
            laid = self._apart(np.array([concept]), nearest)[0]
            mixed = self.means[style] + (1 - LAID_OVER) * regressed + LAID_OVER * laid
            pixels = (255 * mixed.clip(0, 1)).round().astype(np.uint8)
            done.append((int(self.places[concept, nearest]), pixels))
        return done

    def _apart(self, concepts: NDArray[np.int64], style: int) -> Floats:
        """Pictures less the mean of their style (B, S, S, 3); any picture where there is none."""
        return _unit(self.pictures[self.places[concepts, style].clip(0)]) - self.means[style]

    def _others(self, style: int) -> list[int]:
        return [other for other in range(self.styles) if other != style]

    def _patches(
        self, concepts: NDArray[np.int64], style: int, left_out: NDArray[np.bool_] | None = None
    ) -> Floats:
        """What the regression is given: for each patch those of the other styles, (B, P, F).

        After a style's patch stands 1 where the concept has a picture in it.
        """
        parts = []
        for other in self._others(style):
            there = self.places[concepts, other] >= 0
            if left_out is not None:
                there &= ~left_out[:, other]
            patches = _patches_of(self._apart(concepts, other)) * there[:, None, None]
            flags = np.broadcast_to(there[:, None, None], (*patches.shape[:2], 1))
            parts += [patches, flags.astype(np.float32)]
        return np.concatenate(parts, 2)

    def _regression(self, style: int) -> NDArray[np.float64]:
        """(F, 3 PATCH²): from patches of other styles to the one at the same place in `style`."""
        generator = np.random.default_rng(style)
        known = np.flatnonzero(self.places[:, style] >= 0)
        products: Any = 0
        targets: Any = 0
        for start in range(0, len(known), _CONCEPTS_AT_ONCE):
            concepts = known[start : start + _CONCEPTS_AT_ONCE]
            left_out = generator.random((len(concepts), self.styles)) < LEFT_OUT
            given = self._patches(concepts, style, left_out).astype(np.float64)
            given = given.reshape(-1, given.shape[2])
            wanted = _patches_of(self._apart(concepts, style)).reshape(len(given), -1)
            products = products + given.T @ given
            targets = targets + given.T @ wanted
        ridge = RIDGE * np.trace(products) / len(products) + np.finfo(np.float32).tiny
        solved: NDArray[np.float64] = np.linalg.solve(
            products + ridge * np.eye(len(products)), targets
        )
        return solved

    def _nearest(self, style: int) -> list[int]:
        """The other styles, those first whose pictures differ least from the ones in `style`."""

        def distance(other: int) -> float:
            both = np.flatnonzero((self.places[:, [style, other]] >= 0).all(1))
            if not len(both):
                return np.inf
            return float(np.square(self._apart(both, style) - self._apart(both, other)).mean())

        return sorted(self._others(style), key=distance)


def _unit(pictures: NDArray[np.uint8]) -> Floats:
    return pictures.astype(np.float32) / 255


def _patches_of(pictures: Floats) -> Floats:
    """(B, S, S, 3) -> (B, P, 3 PATCH²), the squares of `PATCH` pixels row by row."""
    count, side = pictures.shape[:2]
    cut = pictures.reshape(count, side // PATCH, PATCH, side // PATCH, PATCH, 3)
    return cut.swapaxes(2, 3).reshape(count, -1, PATCH * PATCH * 3)


def _joined_patches(patches: NDArray[Any], side: int) -> NDArray[Any]:
    """The opposite of `_patches_of`."""
    cut = patches.reshape(len(patches), side // PATCH, side // PATCH, PATCH, PATCH, 3)
    return cut.swapaxes(2, 3).reshape(len(patches), side, side, 3)
