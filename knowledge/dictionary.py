"""Surfaces -> the dictionary of a version: `names.marisa`, and each surface's candidates.

Memory: what the trie needs to be built, and about 30 bytes for each surface and candidate.
"""

from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import marisa_trie  # type: ignore[import-not-found]
import numpy as np

from knowledge.checking import ALIAS, SENSE
from knowledge.formats import sense_priors
from knowledge.naming import MERE, SURFACE, Naming
from knowledge.normalising import character_counts
from knowledge.runs import Records, merge_runs, whole_groups
from knowledge.storage import Array, write_array
from knowledge.strings import Strings

_LONGEST_SURFACE = 64
_NEWLINE = 10
_text = itemgetter(slice(0, -1))  # of a line
_LEAST_PRIOR = 6e-8  # about the smallest positive float16: keeps a tiny prior from becoming 0


@dataclass
class _Counted:
    surfaces: int = 0
    too_long: int = 0
    candidates: int = 0
    longest: int = 0


def write_dictionary(
    folder: Path, building: Path, naming: Naming, degrees: Array
) -> dict[str, int]:
    """Write the dictionary of all surfaces that `naming` took; the statistics of it.

    folder: for intermediate files.
    """
    counted = _Counted()
    paths = [folder / name for name in ("surfaces.txt", "counts", "ids", "priors")]
    with (
        paths[0].open("wb") as surfaces,
        paths[1].open("wb") as counts,
        paths[2].open("wb") as entities,
        paths[3].open("wb") as priors,
    ):
        weights = naming.weights()
        for records, new in whole_groups(merge_runs(naming.surfaces, SURFACE)):
            strings = records.keys.take(new).compact()
            characters = character_counts(strings)
            kept = characters <= _LONGEST_SURFACE
            group, entity, prior = _candidates(records, new, weights, degrees)
            wanted = kept[group]
            sizes = np.bincount(group, minlength=len(kept))[kept]
            surfaces.write(_lines(strings.take(kept)))
            sizes.astype(np.uint32).tofile(counts)
            entity[wanted].astype(np.uint32).tofile(entities)
            prior[wanted].astype(np.float16).tofile(priors)
            counted.surfaces += int(kept.sum())
            counted.too_long += int((~kept).sum())
            counted.candidates += int(wanted.sum())
            counted.longest = max(counted.longest, int(characters[kept].max(initial=0)))
    index = _write_trie(paths[0], building, counted.surfaces)
    _write_candidates(building, index, *paths[1:])
    return {
        "surfaces": counted.surfaces,
        "surfaces_too_long": counted.too_long,
        "candidates": counted.candidates,
        "longest_surface": counted.longest,
    }


def _candidates(
    records: Records, new: Array, weights: tuple[Array, Array], degrees: Array
) -> tuple[Array, Array, Array]:
    """(group, entity, prior), the likeliest first in each group of equal surfaces.

    Given priors stay; what has none shares by degree: (degree + 1) / sum. A mere object gives way
    where the surface is somebody's alias.
    """
    rows = records.rows
    group = np.cumsum(new) - 1
    entity, prior = rows["entity"].astype(np.int64), rows["number"].copy()
    sense = np.flatnonzero(rows["kind"] == SENSE)
    if len(sense):
        prior[sense] = _sense_priors(group[sense], entity[sense], weights)
    claimed = np.zeros(int(group[-1]) + 1, bool)
    claimed[group[(rows["kind"] == ALIAS) | (rows["kind"] == SENSE)]] = True
    kept = np.flatnonzero((rows["kind"] != MERE) | ~claimed[group])
    group, entity, prior = group[kept], entity[kept], prior[kept]
    # Of an alias that comes twice the higher prior stays, and any prior rather than none.
    order = np.lexsort((-np.nan_to_num(prior, nan=-1.0), entity, group))
    group, entity, prior = group[order], entity[order], prior[order]
    first = np.ones(len(group), bool)
    first[1:] = (group[1:] != group[:-1]) | (entity[1:] != entity[:-1])
    group, entity, prior = group[first], entity[first], prior[first]
    is_open = np.isnan(prior)
    shares = (degrees[entity].astype(np.float64) + 1.0) * is_open
    totals = np.bincount(group, shares)
    prior[is_open] = shares[is_open] / totals[group[is_open]]
    prior = np.maximum(prior, _LEAST_PRIOR)
    order = np.lexsort((entity, -prior, group))
    return group[order], entity[order], prior[order]


def _sense_priors(group: Array, entity: Array, weights: tuple[Array, Array]) -> Array:
    """The prior of each row of senses; one that stands there twice counts once."""
    weighed, weight = weights
    place = np.minimum(np.searchsorted(weighed, entity), max(len(weighed) - 1, 0))
    known = np.full(len(entity), np.nan)
    if len(weighed):
        known = np.where(weighed[place] == entity, weight[place], np.nan)
    pairs, first, inverse = np.unique(
        np.stack([group, entity], axis=1), axis=0, return_index=True, return_inverse=True
    )
    return sense_priors(pairs[:, 0], known[first])[inverse.ravel()]


def _lines(strings: Strings) -> bytes:
    """The strings, a line each. No surface holds a line break (`knowledge.checking`)."""
    packed = strings.compact()
    ends = np.cumsum(packed.lengths)
    written: bytes = np.insert(packed.data[: int(packed.lengths.sum())], ends, _NEWLINE).tobytes()
    return written


def _write_trie(surfaces: Path, building: Path, count: int) -> Array:
    """Write `names.marisa` of the surfaces; the number that it gives to each of them."""
    # One trie instead of three in a row: 30 % larger, and look-ups take half the time.
    # Of bytes: the file is what `marisa_trie.Trie` of the decoded texts would be.
    with surfaces.open("rb") as lines:
        trie = marisa_trie.BinaryTrie(map(_text, lines), num_tries=1)
    trie.save(str(building / "names.marisa"))
    with surfaces.open("rb") as lines:
        return np.fromiter(map(trie.key_id, map(_text, lines)), np.uint32, count)


def _write_candidates(
    building: Path, index: Array, counts: Path, entities: Path, priors: Path
) -> None:
    """Bring the candidates from the order of surfaces into that of their numbers."""
    sizes = np.fromfile(counts, np.uint32)
    by_number = np.zeros(len(index), np.uint32)
    by_number[index] = sizes
    pointers = np.zeros(len(index) + 1, np.uint32)
    np.cumsum(by_number, out=pointers[1:])
    write_array(building / "surf_ptr.npy", pointers)
    before = np.cumsum(sizes, dtype=np.uint32) - sizes
    places = np.repeat(pointers[index] - before, sizes)
    places += np.arange(len(places), dtype=np.uint32)
    for name, path, dtype in (
        ("cand_id", entities, np.dtype(np.uint32)),
        ("cand_prior", priors, np.dtype(np.float16)),
    ):
        values = np.empty(len(places), dtype)
        values[places] = np.fromfile(path, dtype)
        write_array(building / f"{name}.npy", values)
