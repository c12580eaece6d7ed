"""Blocks of strings -> numbers: entities, relations and texts get theirs in sorted order.

1. `write_block`: the different strings of a block, sorted, and its rows as places among them.
2. `number_strings`: all blocks' strings merged; each string gets its numbers, once for all blocks.
3. `sort_facts`: a block's facts as numbers, sorted.   4. `write_facts`: all of them merged.

Memory: a few blocks, and a dozen bytes for each entity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from knowledge.checking import NAME, TRIPLE, WEIGHT, Block
from knowledge.errors import InvalidInputError
from knowledge.runs import Merged, Records, merge_runs, remove_run, write_run
from knowledge.storage import Array, ArrayWriter, write_array
from knowledge.string_files import StringsWriter
from knowledge.strings import Strings, distinct, sort_strings

TEXT_BIT = np.uint32(1 << 31)  # set in tri_obj: the other 31 bits number a text in val.bin
EXTRA = np.dtype([("entity", "<u4"), ("kind", "u1"), ("number", "<f8")])
_NUMBERS = np.dtype("<u4")
_NONE = np.uint32(2**32 - 1)
# What a string is in some row: the subject of a fact or with a name; an object that may be an
# entity; an object that is a text; a relation; an entity with an alias.
_DESCRIBED, _OBJECT, _TEXT, _RELATION, _ALIASED = (1 << bit for bit in range(5))


@dataclass(frozen=True)
class Work:
    """The intermediate files of a build."""

    folder: Path

    def strings(self, block: int) -> Path:
        """Run of the different strings of a block, with their flags."""
        return self.folder / f"strings-{block:06}"

    def rows(self, block: int) -> Path:
        """The facts of a block: (subject, relation, object) as places among its strings."""
        return self.folder / f"rows-{block:06}.u4"

    def extras(self, block: int) -> Path:
        """What a block says besides facts: texts, each with an EXTRA."""
        return self.folder / f"extras-{block:06}"

    def numbers(self, block: int) -> Path:
        """(entity, text, relation) number for each of the different strings of a block."""
        return self.folder / f"numbers-{block:06}.u4"

    def facts(self, block: int) -> Path:
        """Run of the sorted facts of a block, as numbers."""
        return self.folder / f"facts-{block:06}"


@dataclass
class Numbered:
    """How many of each there are; mere[entity]: it is only ever an object."""

    values: int = 0
    relations: int = 0
    mere: list[Array] = field(default_factory=list)
    entities: int = 0


def write_block(work: Work, number: int, block: Block, literal: frozenset[str]) -> None:
    """Write strings, rows and extras of one block; `literal` relations have texts as objects."""
    facts = np.flatnonzero(block.kind == TRIPLE)
    others = np.flatnonzero(block.kind != TRIPLE)
    columns = [block.subject, block.relation.take(facts), block.text.take(facts)]
    strings, codes = distinct(Strings.joined(columns))
    subject, relation, target = np.split(codes, [len(block), len(block) + len(facts)])
    is_text = np.isin(relation, [strings.find(name.encode()) for name in literal])
    flags = np.zeros(len(strings), np.uint8)
    named = others[block.kind[others] == NAME]
    aliased = others[(block.kind[others] != NAME) & (block.kind[others] != WEIGHT)]
    for rows, flag in (
        (subject[facts], _DESCRIBED),
        (subject[named], _DESCRIBED),
        (subject[aliased], _ALIASED),
        (target[~is_text], _OBJECT),
        (target[is_text], _TEXT),
        (relation, _RELATION),
    ):
        flags[rows] |= np.uint8(flag)
    write_run(work.strings(number), Records(strings, flags))
    marked = target + is_text * int(TEXT_BIT)
    np.stack([subject[facts], relation, marked], axis=1).astype(_NUMBERS).tofile(work.rows(number))
    extras = np.empty(len(others), EXTRA)
    extras["entity"], extras["kind"] = subject[others], block.kind[others]
    extras["number"] = block.number[others]
    write_run(work.extras(number), Records(block.text.take(others), extras))


def number_strings(work: Work, blocks: int, building: Path, *, all_objects: bool) -> Numbered:
    """Write keys, texts and relations of a version, and the numbers of every block's strings."""
    found = Numbered()
    entity_flags = _DESCRIBED | _ALIASED | (_OBJECT if all_objects else 0)
    with (
        StringsWriter(building / "ent_key.bin", building / "ent_key.off.npy") as keys,
        StringsWriter(building / "val.bin", building / "val_off.npy") as values,
        (building / "relations.txt").open("wb") as relations,
    ):
        for block in range(blocks):
            work.numbers(block).unlink(missing_ok=True)
        paths = [work.strings(block) for block in range(blocks)]
        for stretch in merge_runs(paths, np.uint8):
            first = np.flatnonzero(stretch.new)
            flags = np.bitwise_or.reduceat(stretch.records.rows, first)
            strings = stretch.records.keys.take(first)
            is_entity = (flags & entity_flags) > 0
            is_value = ((flags & _TEXT) > 0) | (((flags & _OBJECT) > 0) & ~is_entity)
            is_relation = (flags & _RELATION) > 0
            numbers = [
                _numbered(is_entity, keys.count),
                _numbered(is_value, values.count),
                _numbered(is_relation, found.relations),
            ]
            keys.write(strings.take(is_entity))
            values.write(strings.take(is_value))
            relations.writelines(name + b"\n" for name in strings.take(is_relation))
            found.relations += int(is_relation.sum())
            found.mere.append((flags[is_entity] & (_DESCRIBED | _ALIASED)) == 0)
            _hand_out(work, stretch, np.stack(numbers, axis=1))
        found.entities, found.values = keys.count, values.count
    if max(found.entities, found.values) >= int(TEXT_BIT):
        counts = f"{found.entities} entities and {found.values} texts"
        raise InvalidInputError(f"{counts}; allowed are 2^31 of each: build from fewer facts")
    return found


def sort_facts(work: Work, block: int) -> tuple[Strings, Array]:
    """Write the facts of a block as a sorted run; its other rows: texts, EXTRA with entity ids."""
    numbers = np.fromfile(work.numbers(block), _NUMBERS).reshape(-1, 3)
    rows = np.fromfile(work.rows(block), _NUMBERS).reshape(-1, 3)
    place = rows[:, 2] & ~TEXT_BIT
    entity = numbers[place, 0]
    is_text = (rows[:, 2] >= TEXT_BIT) | (entity == _NONE)
    target = np.where(is_text, numbers[place, 1] | TEXT_BIT, entity)
    # Big-endian numbers sort as bytes do.
    facts = np.stack([numbers[rows[:, 0], 0], numbers[rows[:, 1], 2], target], axis=1).astype(">u4")
    keys = Strings.packed(facts.tobytes(), np.full(len(facts), 12))
    order, new = sort_strings(keys)
    write_run(work.facts(block), Records(keys.take(order[new]), np.zeros(int(new.sum()), np.uint8)))
    path = work.extras(block)
    lengths = np.fromfile(path.with_suffix(".len"), np.uint32)
    texts = Strings.packed(path.with_suffix(".txt").read_bytes(), lengths)
    extras = np.fromfile(path.with_suffix(".row"), EXTRA)
    extras["entity"] = numbers[extras["entity"], 0]
    return texts, extras


def write_facts(paths: Sequence[Path], building: Path, entities: int) -> tuple[int, Array]:
    """Merge sorted facts into a version's arrays; the number of facts, and entities' degrees."""
    counts = np.zeros(entities, np.uint32)
    degrees = np.zeros(entities, np.uint32)
    total = 0
    with (
        ArrayWriter(building / "tri_rel.npy", np.uint32) as relations,
        ArrayWriter(building / "tri_obj.npy", np.uint32) as objects,
    ):
        for stretch in merge_runs(paths, np.uint8):
            keys = stretch.records.keys.take(stretch.new)
            rows = np.frombuffer(keys.tobytes(), ">u4").reshape(-1, 3).astype(np.uint32)
            np.add.at(counts, rows[:, 0], 1)
            np.add.at(degrees, rows[rows[:, 2] < TEXT_BIT, 2], 1)
            relations.write(rows[:, 1])
            objects.write(rows[:, 2])
            total += len(rows)
    for path in paths:
        remove_run(path)
    degrees += counts
    pointers = np.zeros(entities + 1, np.uint64)
    np.cumsum(counts, out=pointers[1:])
    write_array(building / "tri_ptr.npy", pointers)
    write_array(building / "ent_degree.npy", degrees)
    return total, degrees


def _numbered(chosen: Array, first: int) -> Array:
    """first, first + 1 ... for the chosen, _NONE for the others."""
    return np.where(chosen, np.cumsum(chosen) + (first - 1), _NONE).astype(_NUMBERS)


def _hand_out(work: Work, stretch: Merged, numbers: Array) -> None:
    """Append to every block's file the numbers of those of its strings that lie in the stretch."""
    own = numbers[np.cumsum(stretch.new) - 1]
    order = np.argsort(stretch.run, kind="stable")
    runs, first = np.unique(stretch.run[order], return_index=True)
    for run, rows in zip(runs.tolist(), np.split(own[order], first[1:]), strict=True):
        with work.numbers(run).open("ab") as file:
            rows.tofile(file)
