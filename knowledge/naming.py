"""Names of entities, and every surface that they give: `ent_name` and sorted runs of surfaces.

A surface is a normalised name or alias; SURFACE says whose it is, and on what ground.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from knowledge.checking import ALIAS, NAME, SENSE, WEIGHT
from knowledge.normalising import normal_forms
from knowledge.numbering import EXTRA, Numbered, Work, sort_facts
from knowledge.runs import Records, merge_runs, write_run
from knowledge.splitting import is_wide_space
from knowledge.storage import Array
from knowledge.string_files import StringsWriter, read_table
from knowledge.strings import Strings, sort_strings

MERE = 5  # beside the kinds of knowledge.checking: the name of an entity that is only an object
SURFACE = EXTRA
_ID_BYTES, _SPACE = 4, 32


class Naming:
    """Collects given names, surfaces and weights of senses from the blocks of a build."""

    def __init__(self, work: Work, found: Numbered) -> None:
        self._work = work
        self._mere = np.concatenate([np.zeros(0, bool), *found.mere])
        self._weights: list[Array] = []
        self._given: list[Path] = []
        self.surfaces: list[Path] = []

    def take(self, texts: Strings, extras: Array) -> None:
        """The rows of a block that are no facts; `extras` has entity ids."""
        kind = extras["kind"]
        self._weights.append(extras[kind == WEIGHT][["entity", "number"]])
        names = np.flatnonzero(kind == NAME)
        if len(names):
            ids = extras["entity"][names].astype(">u4").tobytes()
            pairs = zip(range(0, len(ids), _ID_BYTES), texts.take(names), strict=True)
            keys = Strings.of([ids[at : at + _ID_BYTES] + text for at, text in pairs])
            self._given.append(self._work.folder / f"given-{len(self._given):06}")
            order, new = sort_strings(keys)
            rows = order[new]
            write_run(self._given[-1], Records(keys.take(rows), np.zeros(len(rows), np.uint8)))
        said = np.flatnonzero((kind == ALIAS) | (kind == SENSE))
        self._add(texts.take(said), extras[said])

    def weights(self) -> tuple[Array, Array]:
        """Entities in order, and how often each is meant by an ambiguous surface."""
        rows = np.concatenate([np.zeros(0, [("entity", "<u4"), ("number", "<f8")]), *self._weights])
        order = np.lexsort((-rows["number"], rows["entity"]))
        entity, first = np.unique(rows["entity"][order], return_index=True)
        return entity, rows["number"][order][first]

    def write_names(self, building: Path, *, link_objects: bool) -> None:
        """Write `ent_name`, and take the names as surfaces.

        An entity without a given name is called by its key, less a sense: `苹果[公司]` is 苹果.
        """
        given, first = _Given(self._given), 0
        with StringsWriter(building / "ent_name.bin", building / "ent_name.off.npy") as writer:
            for keys in read_table(building / "ent_key.bin", building / "ent_key.off.npy"):
                entities = np.arange(first, first + len(keys))
                first += len(keys)
                ids, texts = given.below(first)
                owner, own = np.unique(ids, return_index=True)
                names = _called(keys).replaced(owner - entities[0], list(texts.take(own)))
                writer.write(names)
                others = np.delete(np.arange(len(ids)), own)  # further names are surfaces
                mere = self._mere[entities]
                if not link_objects:
                    names, entities = names.take(~mere), entities[~mere]
                    mere = mere[~mere]
                kinds = np.concatenate([np.where(mere, MERE, NAME), np.full(len(others), NAME)])
                rows = np.zeros(len(kinds), SURFACE)
                rows["entity"] = np.concatenate([entities, ids[others]])
                rows["kind"], rows["number"] = kinds, np.nan
                together = Strings.joined([names, texts.take(others)])
                self._add(normal_forms(together), rows)

    def _add(self, texts: Strings, rows: Array) -> None:
        """Write a sorted run of surfaces, less the empty ones."""
        kept = np.flatnonzero(texts.lengths > 0)
        if not len(kept):
            return
        texts = texts.take(kept)
        order, _ = sort_strings(texts)
        self.surfaces.append(self._work.folder / f"surfaces-{len(self.surfaces):06}")
        write_run(self.surfaces[-1], Records(texts.take(order), rows[kept][order]))


def gather(work: Work, blocks: int, found: Numbered) -> tuple[Naming, list[Path]]:
    """Sort every block's facts and collect its other rows; the paths of the runs of facts."""
    naming = Naming(work, found)
    for block in range(blocks):
        naming.take(*sort_facts(work, block))
    return naming, [work.facts(block) for block in range(blocks)]


class _Given:
    """Given names in the order of their entities."""

    def __init__(self, paths: list[Path]) -> None:
        self._stretches = self._parts(paths)
        self._ids, self._texts = np.zeros(0, np.int64), Strings.of([])

    def below(self, end: int) -> tuple[Array, Strings]:
        """(ids, names) of the entities below `end` that were not given before."""
        while not len(self._ids) or self._ids[-1] < end:
            part = next(self._stretches, None)
            if part is None:
                break
            self._ids = np.concatenate([self._ids, part[0]])
            self._texts = Strings.joined([self._texts, part[1]])
        count = int(np.searchsorted(self._ids, end))
        found = self._ids[:count], self._texts.take(slice(0, count))
        self._ids, self._texts = self._ids[count:], self._texts.take(slice(count, None)).compact()
        return found

    @staticmethod
    def _parts(paths: list[Path]) -> Iterator[tuple[Array, Strings]]:
        for stretch in merge_runs(paths, np.uint8):
            keys = stretch.records.keys.take(stretch.new)
            ids = (keys.word(0) >> np.uint64(32)).astype(np.int64)
            yield ids, Strings(keys.data, keys.starts + _ID_BYTES, keys.lengths - _ID_BYTES)


def _called(keys: Strings) -> Strings:
    """`苹果[公司]` is called 苹果, the way OwnThink writes senses."""
    ends = keys.starts + keys.lengths
    rows = np.flatnonzero(keys.data[ends - 1] == ord("]"))
    brackets = np.flatnonzero(keys.data == ord("["))
    if not len(rows) or not len(brackets):
        return keys
    # The last bracket before the end, if it belongs to this key and not to one before.
    last = brackets[np.maximum(np.searchsorted(brackets, ends[rows]) - 1, 0)]
    found = (last > keys.starts[rows]) & (last < ends[rows])
    rows, last = rows[found], last[found]
    lengths = keys.lengths.copy()
    lengths[rows] = last - keys.starts[rows]
    odd = rows[_ends_in_space(keys.data, last)]
    named = Strings(keys.data, keys.starts, lengths)
    return named.replaced(odd, [_without_sense(keys[row]) for row in odd.tolist()])


def _ends_in_space(data: Array, ends: Array) -> npt.NDArray[np.bool_]:
    """Whether white space, or what may be some, stands before each of these places."""
    third, second, last = (data[np.maximum(ends - back, 0)] for back in (3, 2, 1))
    return (last <= _SPACE) | is_wide_space(third, second, last) | is_wide_space(second, last, last)


def _without_sense(key: bytes) -> bytes:
    return key[: max(key.rfind(b"["), 0)].decode("utf-8").strip().encode("utf-8") or key
