"""What a model draws for a report: every picture once, kept as features, a score and few pixels."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rapid_diffusion.drawing import resized
from rapid_diffusion.evaluation.judge import Judge
from rapid_diffusion.images.convert import Pixels, pixels_to_unit, unit_to_pixels
from rapid_diffusion.pipeline import RapidDiffusionPipeline

#: The longest side of a picture that the report shows.
SHOWN = 128


@dataclass(frozen=True)
class Task:
    """One picture to draw."""

    prompt: str
    seed: int
    knowledge: bool = True


@dataclass(frozen=True)
class Drawings:
    """The pictures of one model by their tasks.

    pooled (N, 1280): features as the judge gives them; small (N, 3, h, w) in [0, 1]: at the size
    of a drawing; scores (N,): cosines by the scorer's pair, None without one.
    """

    places: dict[Task, int]
    pooled: Tensor
    small: Tensor
    scores: NDArray[np.float64] | None
    shown: dict[Task, Pixels]

    def rows(self, tasks: Iterable[Task]) -> list[int]:
        """Where the pictures of these tasks are."""
        return [self.places[task] for task in tasks]

    def features(self, tasks: Iterable[Task]) -> Tensor:
        """(N, 1280) of unit length."""
        return functional.normalize(self.pooled[self.rows(tasks)], dim=-1)

    def scores_of(self, tasks: Iterable[Task]) -> NDArray[np.float64] | None:
        """(N,) cosines; None where nothing can score."""
        return None if self.scores is None else self.scores[self.rows(tasks)]


class Draftsman:
    """Draws tasks with any model; judge, scorer and the tasks to show are the same for all."""

    def __init__(
        self,
        judge: Judge,
        scorer: RapidDiffusionPipeline | None,
        size: tuple[int, int],
        shown: Collection[Task],
    ) -> None:
        self.judge, self.scorer, self.size, self.shown = judge, scorer, size, shown

    def draw(self, pipeline: RapidDiffusionPipeline, tasks: Sequence[Task]) -> Drawings:
        """Every task once, however often it is asked for."""
        wanted = list(dict.fromkeys(sorted(tasks, key=lambda task: task.knowledge)))
        pooled, small, scores = [], [], []
        shown: dict[Task, Pixels] = {}
        for task, pixels in tqdm(
            self._pixels(pipeline, wanted), total=len(wanted), desc=pipeline.name, unit="picture"
        ):
            unit = pixels_to_unit(pixels)
            pooled.append(self.judge.pooled(unit))
            small.append(resized(unit, self.size))
            if self.scorer is not None:
                scores.append(float(self.scorer.score(pixels, task.prompt)))
            if task in self.shown:
                shown[task] = unit_to_pixels(resized(unit, _at_most(pixels.shape[1:3])))[0]
        return Drawings(
            {task: place for place, task in enumerate(wanted)},
            torch.cat(pooled),
            torch.cat(small),
            np.array(scores) if self.scorer is not None else None,
            shown,
        )

    def _pixels(
        self, pipeline: RapidDiffusionPipeline, tasks: Sequence[Task]
    ) -> Iterable[tuple[Task, Pixels]]:
        for knowledge in (False, True):
            chosen = [task for task in tasks if task.knowledge is knowledge]
            rows = ({"prompt": task.prompt, "seed": task.seed} for task in chosen)
            results = pipeline.render(rows, knowledge=knowledge, output_type="numpy")
            for task, result in zip(chosen, results, strict=True):
                yield task, result.images


def _at_most(shape: Sequence[int]) -> tuple[int, int]:
    """(height, width) no longer than `SHOWN`."""
    longest = max(shape)
    height, width = (max(1, round(side * min(1.0, SHOWN / longest))) for side in shape)
    return height, width
