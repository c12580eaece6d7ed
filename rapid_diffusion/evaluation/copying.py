"""The sections "Diversity" and "Nearest training picture": always the same? ever a copy?"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rapid_diffusion.evaluation.evidence import Evidence, Record, Section, Table
from rapid_diffusion.evaluation.intervals import compared, mean_and_interval, rounded
from rapid_diffusion.evaluation.pictures import is_training
from rapid_diffusion.evaluation.recognised import PAIRS, WORDS

#: Held-out real pictures that are nearer than this share of themselves count as very near.
NEAR = 0.05
Values = NDArray[np.float64]


def diversity(evidence: Evidence) -> Section:
    """Mean distance between the pictures that different seeds give for one sentence."""
    title = "Diversity"
    says = (
        "The mean distance (1 - cosine of the judge's features) between pictures of one sentence"
        " with different seeds. `real` is the distance between real pictures of one concept, which"
        " differ in style too: a sentence that names a style should stay below it."
    )
    runs = [name for name in PAIRS if name in evidence.plan.runs]
    if not runs or min(evidence.plan.runs[name].seeds for name in runs) < 2:
        return Section(title, says, missing="needs two seeds at least (--seeds 2)")
    rows: list[Record] = []
    concepts: dict[str, list[int]] = defaultdict(list)
    for place, concept in enumerate(evidence.recognition.gallery.concepts):
        concepts[concept].append(place)
    several = [places for places in concepts.values() if len(places) > 1]
    notes = [] if several else ["No two real pictures are known to show the same: no `real`."]
    if several:
        features = evidence.recognition.gallery.features
        values = [_mean_distance(features[places]) for places in several]
        rows.append({"sentences": len(several), **_real_row("real pictures of a concept", values)})
    rows += [_diversity_row(evidence, name) for name in runs]
    return Section(title, says, [Table("mean distance", rows)], notes)


def _real_row(what: str, values: Sequence[float]) -> Record:
    mean, interval = mean_and_interval(values, [str(place) for place in range(len(values))])
    bounds = [rounded(bound) for bound in interval]
    return {"what": what, "real": rounded(mean), "real_interval": bounds}


def _diversity_row(evidence: Evidence, name: str) -> Record:
    wanted, seeds = evidence.wanted([name]), evidence.plan.runs[name].seeds
    found = {}
    for source, drawings in evidence.drawings.items():
        features = drawings.features(task for _, task in wanted)
        found[source] = [_mean_distance(part) for part in torch.split(features, seeds)]
    groups = [prompt.concept for prompt, _ in wanted[::seeds]]
    row = compared(WORDS[name], found["model"], found.get("against"), groups)
    row["sentences"] = row.pop("pictures")
    return row


def _mean_distance(features: Tensor) -> float:
    """Over all pairs of rows (N, F), N >= 2."""
    similarity = features.double() @ features.double().T
    count = len(features)
    pairs = count * (count - 1)
    return 1 - float(similarity.sum() - similarity.trace()) / pairs


def nearest(evidence: Evidence) -> Section:
    """How near each drawn picture is to the training picture that is most like it."""
    title = "Nearest training picture"
    says = (
        "The distance from each picture to the nearest training picture. A model that copies is far"
        " nearer than real pictures that training did not see (`real`); `very near` is the share"
        " nearer than the nearest 5 % of those."
    )
    rows = evidence.recognition.rows
    training = [place for place, row in enumerate(rows) if is_training(row)]
    held_out = [place for place, row in enumerate(rows) if not is_training(row)]
    if not training:
        return Section(title, says, missing="no row of the split `train`")
    notes = [f"Among {len(training)} training pictures; pixels at {_pixels(evidence.size)}."]
    if not held_out:
        notes.append("No held-out rows: there is nothing real to compare with.")
    tables = []
    for unit in (_Judged(evidence, training), _Pixels(evidence, training)):
        tables += _tables(evidence, unit, held_out)
    return Section(title, says, tables, notes)


class _Judged:
    """Distances by the judge: 1 - cosine."""

    name = "in the judge's features, 1 - cosine"

    def __init__(self, evidence: Evidence, training: Sequence[int]) -> None:
        self.features = evidence.recognition.gallery.features
        self.training = self.features[list(training)]

    def of_real(self, places: Sequence[int]) -> Values:
        return self._least(self.features[list(places)])

    def of_drawn(self, pooled: Tensor, _small: Tensor) -> Values:
        return self._least(torch.nn.functional.normalize(pooled, dim=-1))

    def _least(self, features: Tensor) -> Values:
        found: Values = (1 - (features @ self.training.T).amax(1)).double().numpy()
        return found


class _Pixels:
    """Distances of pixels: root mean square, of levels in [0, 1]."""

    name = "in pixels, root mean square of [0, 1]"

    def __init__(self, evidence: Evidence, training: Sequence[int]) -> None:
        self.real, self.size = evidence.recognition.real, evidence.size
        self.training = self.real.unit(training, self.size).flatten(1)

    def of_real(self, places: Sequence[int]) -> Values:
        return self._least(self.real.unit(places, self.size))

    def of_drawn(self, _pooled: Tensor, small: Tensor) -> Values:
        return self._least(small)

    def _least(self, images: Tensor) -> Values:
        flat = images.flatten(1)
        parts = torch.split(flat, 64)
        found = torch.cat([torch.cdist(part, self.training).amin(1) for part in parts])
        values: Values = (found / flat.shape[1] ** 0.5).double().numpy()
        return values


def _tables(evidence: Evidence, unit: _Judged | _Pixels, held_out: Sequence[int]) -> list[Table]:
    means: list[Record] = []
    shares: list[Record] = []
    threshold = None
    if held_out:
        real = unit.of_real(held_out)
        threshold = float(np.quantile(real, NEAR))
        row = _real_row("real held-out pictures", real.tolist())
        means.append({"pictures": len(real), **row})
    for name in (name for name in PAIRS if name in evidence.plan.runs):
        wanted = evidence.wanted([name])
        groups = [prompt.concept for prompt, _ in wanted]
        found: dict[str, Values] = {}
        for source, drawings in evidence.drawings.items():
            places = drawings.rows(task for _, task in wanted)
            found[source] = unit.of_drawn(drawings.pooled[places], drawings.small[places])
        means.append(compared(WORDS[name], found["model"], found.get("against"), groups))
        if threshold is not None:
            near = {source: (values < threshold) * 1.0 for source, values in found.items()}
            shares.append(compared(WORDS[name], near["model"], near.get("against"), groups))
    tables = [Table(f"mean distance {unit.name}", means)]
    if threshold is not None:
        tables.append(Table(f"share very near (below {rounded(threshold)}) {unit.name}", shares))
    return tables


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
