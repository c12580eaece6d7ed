"""The section "KID and FID": how far the drawn pictures are from real ones as a whole."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rapid_diffusion.evaluation.evidence import Evidence, Record, Section, Split, Table
from rapid_diffusion.evaluation.fid import Features, KernelDistance, fid, kid, resampled
from rapid_diffusion.evaluation.intervals import rounded

SAYS = (
    "How far the drawn pictures as a whole are from real ones, by the judge's 1280 features (means"
    " of its last layer, in units of their root mean square over the real pictures). Zero is the"
    " same distribution; `real` is what two disjoint sets of real pictures of the same size are"
    " apart, which is the best that can be expected."
)
BIAS = (
    "Both sides have {count} pictures. FID is biased upwards at so few, `real` by about as much:"
    " compare the columns, not with other papers. KID has no such bias. These are not Inception's"
    " features. What a sentence asked for does not count here."
)
ROUNDS = 100
Weights = NDArray[np.int64]
Item = TypeVar("Item")


def distances(evidence: Evidence) -> Section:
    """KID and FID over the splits of the plan, beside the figure of real against real."""
    splits = evidence.plan.splits
    count = len(splits[0].first)
    if count < 2:
        return Section("KID and FID", SAYS, missing="needs four real pictures at least")
    sets = [_sets(evidence, split) for split in splits]
    by_seed = [row for seed, found in enumerate(sets) for row in _by_seed(seed, found)]
    rows = [
        _summary("KID", count, [row for row in by_seed if row["what"] == "KID"], sets, _kid_of),
        _summary("FID", count, [row for row in by_seed if row["what"] == "FID"], sets, _fid_of),
    ]
    over = "mean over seeds [least, most]; difference with its 95 % bootstrap interval"
    tables = [
        Table(over, rows),
        Table("by seed; KID with its standard deviation over subsets", by_seed),
    ]
    return Section("KID and FID", SAYS, tables, [BIAS.format(count=count)])


def _sets(evidence: Evidence, split: Split) -> dict[str, Features]:
    """The features of one split: `reference`, `real` and what each model drew."""
    pooled = evidence.recognition.pooled
    found = {"reference": pooled[split.second], "real": pooled[split.first]}
    for name, drawings in evidence.drawings.items():
        found[name] = drawings.pooled[drawings.rows(split.tasks)]
    scale = float(pooled.double().square().mean().sqrt())
    return {name: _double(features) / scale for name, features in found.items()}


def _double(features: Tensor) -> Features:
    found: Features = features.double().cpu().numpy()
    return found


def _drawn(names: Sequence[str]) -> list[str]:
    return [name for name in ("real", "model", "against") if name in names]


def _by_seed(seed: int, sets: dict[str, Features]) -> list[Record]:
    kernel: dict[str, Any] = {"what": "KID", "seed": seed}
    frechet: dict[str, Any] = {"what": "FID", "seed": seed}
    for name in _drawn(list(sets)):
        # The same subsets for all: their differences are then of the pictures, not of the draw.
        spread = kid(sets[name], sets["reference"], seed=seed)
        kernel |= {name: rounded(spread.mean), f"{name}_deviation": rounded(spread.deviation)}
        frechet[name] = rounded(fid(sets[name], sets["reference"]))
    return [kernel, frechet]


def _summary(
    what: str,
    count: int,
    by_seed: Sequence[Record],
    sets: Sequence[dict[str, Features]],
    prepare: Callable[[Features, Features], Callable[[Weights, Weights], float]],
) -> Record:
    row: Record = {"what": what, "pictures": count}
    for name in _drawn(list(sets[0])):
        values = [record[name] for record in by_seed]
        row[name] = rounded(float(np.mean(values)))
        row[f"{name}_interval"] = [min(values), max(values)]
    if "against" in row:
        change = float(np.mean([record["model"] - record["against"] for record in by_seed]))
        row["difference"] = rounded(change)
        row["difference_interval"] = _interval(change, sets, prepare)
    return row


def _interval(
    change: float,
    sets: Sequence[dict[str, Features]],
    prepare: Callable[[Features, Features], Callable[[Weights, Weights], float]],
) -> list[float]:
    """95 % bootstrap of the difference: the same prompts and references are taken for both models.

    Resampling shifts FID upwards, so the quantiles are moved to where the difference is.
    """
    totals = np.zeros(ROUNDS)
    for seed, found in enumerate(sets):
        ours, theirs = (prepare(found[name], found["reference"]) for name in ("model", "against"))
        count = len(found["reference"])
        left, right = resampled(count, ROUNDS, 2 * seed), resampled(count, ROUNDS, 2 * seed + 1)
        totals += [ours(a, b) - theirs(a, b) for a, b in zip(left, right, strict=True)]
    totals /= len(sets)
    low, high = np.quantile(totals, (0.025, 0.975)) - totals.mean() + change
    return [rounded(float(low)), rounded(float(high))]


def _kid_of(first: Features, second: Features) -> Callable[[Weights, Weights], float]:
    return KernelDistance(first, second).value


def _fid_of(first: Features, second: Features) -> Callable[[Weights, Weights], float]:
    return lambda left, right: fid(first, second, left, right)
