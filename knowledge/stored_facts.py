"""The facts of a version, mapped: those of one subject lie together, sorted by relation and object.

An object is the id of an entity or, from TEXT_BIT on, the number of a text.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from knowledge.context import KIND_RELATIONS, Profile, kinds_of, profile
from knowledge.errors import DamagedVersionError
from knowledge.linking import normal_text
from knowledge.numbering import TEXT_BIT
from knowledge.storage import StringTable, map_array

# What is read of an entity to tell it from others of its name.
_PROFILE_FACTS = 32
_PROFILE_TEXT = 120
_TYPES = 4096  # kept at a time: many entities have one type
_TEXT = int(TEXT_BIT)


@dataclass(frozen=True)
class Triple:
    """One fact. `object` is an entity id, or -1 when the object is a text; `text` is its name."""

    subject: int
    relation: str
    object: int
    text: str


class StoredFacts:
    """Facts by subject. It knows its tables and no graph: a graph that nobody holds is gone at
    once, and its files with it, without waiting for Python to look for circles.
    """

    def __init__(self, directory: Path, keys: StringTable, names: StringTable) -> None:
        # Not splitlines(): a relation may hold U+2028.
        self.relations = (directory / "relations.txt").read_text(encoding="utf-8").split("\n")[:-1]
        numbered = enumerate(self.relations)
        self._kind_relations = frozenset(n for n, name in numbered if name in KIND_RELATIONS)
        self._keys = keys
        values = StringTable.open(directory / "val.bin", directory / "val_off.npy")
        self._names, self._values = names, values
        # Single items of a memory view are read several times faster than those of an array.
        self._pointers = map_array(directory / "tri_ptr.npy", 1).data
        self._relation_ids = map_array(directory / "tri_rel.npy").data
        self._objects = map_array(directory / "tri_obj.npy").data
        self._type = lru_cache(maxsize=_TYPES)(
            lambda target: _profile_text(_text(names, values, target))
        )
        self._check_lengths(directory, len(keys))

    def of(self, subject: int, relation: str | None, limit: int) -> list[Triple]:
        """At most `limit` facts of a subject, of one relation or of all."""
        rows = range(self._pointers[subject], self._pointers[subject + 1])
        if relation is None:
            return [self._triple(subject, row) for row in rows[:limit]]
        if relation not in self.relations:
            return []
        wanted = self.relations.index(relation)
        found = [row for row in rows if self._relation_ids[row] == wanted]
        return [self._triple(subject, row) for row in found[:limit]]

    def between_entities(self) -> npt.NDArray[np.int32]:
        """All facts between two entities, (n, 3): head, relation number, tail."""
        objects = np.asarray(self._objects)
        kept = np.flatnonzero(objects < TEXT_BIT)
        rows = np.empty((len(kept), 3), np.int32)
        # The fact at a place belongs to the last subject whose facts begin there or before.
        places = kept.astype(np.uint64)
        rows[:, 0] = np.searchsorted(np.asarray(self._pointers), places, "right") - 1
        rows[:, 1] = np.asarray(self._relation_ids)[kept]
        rows[:, 2] = objects[kept]
        return rows

    def profile(self, entity: int) -> Profile:
        """What the first facts of an entity say, for a sentence to be held against."""
        numbers, objects = self._first(entity)
        facts = [
            (self.relations[number], _profile_text(_text(self._names, self._values, target)))
            for number, target in zip(numbers, objects, strict=True)
        ]
        return profile(self._key(entity), facts)

    def kinds(self, entity: int) -> tuple[str, ...]:
        """What kinds of thing an entity is: `profile(entity).kinds`."""
        numbers, objects = self._first(entity)
        types = [
            self._type(target)
            for number, target in zip(numbers, objects, strict=True)
            if number in self._kind_relations
        ]
        return kinds_of(self._key(entity), types)

    def _key(self, entity: int) -> str:
        """A key, normalised if it may have a sense in brackets: no more is read of it."""
        key = self._keys[entity]
        return key if key.isalpha() else normal_text(key)

    def _first(self, entity: int) -> tuple[list[int], list[int]]:
        """The relations and objects of the first facts of an entity."""
        first = self._pointers[entity]
        end = min(self._pointers[entity + 1], first + _PROFILE_FACTS)
        return self._relation_ids[first:end].tolist(), self._objects[first:end].tolist()

    def _triple(self, subject: int, row: int) -> Triple:
        target = self._objects[row]
        text = _text(self._names, self._values, target)
        found = target if target < _TEXT else -1
        return Triple(subject, self.relations[self._relation_ids[row]], found, text)

    def _check_lengths(self, directory: Path, entities: int) -> None:
        expected = {
            "tri_ptr.npy": (len(self._pointers), entities + 1),
            "tri_obj.npy": (len(self._objects), self._pointers[-1]),
            "tri_rel.npy": (len(self._relation_ids), self._pointers[-1]),
        }
        check_rows(directory, expected)


def check_rows(directory: Path, expected: dict[str, tuple[int, int]]) -> None:
    """Sizes that a manifest cannot see: {file: (rows found, rows wanted)} must agree."""
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise DamagedVersionError(directory / name, f"has {found} rows, wanted {wanted}")


def _text(names: StringTable, values: StringTable, target: int) -> str:
    """The text or the entity's name that an object stands for."""
    return values[target - _TEXT] if target >= _TEXT else names[target]


def _profile_text(text: str) -> str:
    return normal_text(text[:_PROFILE_TEXT])
