"""KnowledgeGraph: one version, mapped into memory, read-only, safe to share between threads."""

import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knowledge.errors import DamagedVersionError, InvalidInputError, UnknownEntityError
from knowledge.linker import Linker
from knowledge.linking import NORMALISATION, Link, Reading
from knowledge.storage import Array, StringTable, map_matrix
from knowledge.stored_facts import StoredFacts, Triple, check_rows
from knowledge.surfaces import Surfaces
from knowledge.versions import Verify, check_version, resolve

__all__ = ["KnowledgeGraph", "Triple"]


class KnowledgeGraph:
    """One version of a knowledge graph. Make it with `KnowledgeGraph.open`."""

    version: str
    dimension: int
    stats: dict[str, Any]
    relations: list[str]
    path: Path

    def __init__(self, directory: Path, version: str, stats: dict[str, Any]) -> None:
        self.path = directory
        self.version = version
        self.stats = stats
        self.dimension = int(stats["dimension"])
        self._keys = StringTable.open(directory / "ent_key.bin", directory / "ent_key.off.npy")
        self._names = StringTable.open(directory / "ent_name.bin", directory / "ent_name.off.npy")
        self._facts = StoredFacts(directory, self._keys, self._names)
        self.relations = self._facts.relations
        self._surfaces = Surfaces(directory, int(stats["longest_surface"]))
        self.linker = Linker(
            self._surfaces,
            self._keys,
            self._names,
            self._facts,
            # Versions before this number keep traditional characters in their dictionary.
            simplified=int(stats.get("normalisation", 1)) >= NORMALISATION,
        )
        self._vectors: Array | None = None
        if self.dimension:
            self._vectors = map_matrix(directory / "vectors.safetensors")
        self._check_lengths()

    @classmethod
    def open(cls, path: str | Path, *, verify: Verify = "quick") -> "KnowledgeGraph":
        """Open a version directory, or the version that `CURRENT` of a store names.

        "quick" checks that every file is there with its size; "full" reads all bytes against
        their sha256. Raises a VersionError that names the file.
        """
        directory = resolve(Path(path))
        manifest = check_version(directory, verify)
        try:
            return cls(directory, manifest.version, manifest.stats)
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise DamagedVersionError(directory, f"cannot be opened ({error!r})") from error

    def __len__(self) -> int:
        return len(self._keys)

    def entity(self, key_or_id: str | int) -> int:
        """The id of a key, or the id itself if the graph has it. Raises UnknownEntityError."""
        if isinstance(key_or_id, str):
            found = self._keys.find(key_or_id)
        else:
            number = operator.index(key_or_id)
            found = number if number < len(self) else -1
        if found < 0:
            raise UnknownEntityError(key_or_id, self.version)
        return found

    def key(self, entity: int) -> str:
        """The stable key of an id. Raises UnknownEntityError."""
        return self._keys[self.entity(entity)]

    def name(self, entity: int) -> str:
        """The name shown to people. Raises UnknownEntityError."""
        return self._names[self.entity(entity)]

    def neighbours(
        self, entity: str | int, relation: str | None = None, limit: int = 50
    ) -> list[Triple]:
        """At most `limit` facts of which `entity` is the subject, sorted by relation and object.

        A relation that the graph does not have gives []. Raises UnknownEntityError.
        """
        if limit < 0:
            raise InvalidInputError(f"limit is {limit}; allowed are 0 and more")
        return self._facts.of(self.entity(entity), relation, limit)

    def triples(self) -> npt.NDArray[np.int32]:
        """All facts between two entities, (n, 3): head, relation number, tail."""
        return self._facts.between_entities()

    def vectors(self, ids: Iterable[int] | Array) -> npt.NDArray[np.float32]:
        """Entity vectors, (n, dimension). The id -1 means "no entity": a row of zeros.

        Raises UnknownEntityError for any other id that the graph does not have.
        """
        given = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if given.size and given.dtype.kind not in "iu":
            raise InvalidInputError(f"ids have the type {given.dtype}; wanted whole numbers")
        wanted = given.astype(np.int64)
        if wanted.min(initial=0) < -1 or wanted.max(initial=-1) >= len(self):
            outside = wanted[(wanted < -1) | (wanted >= len(self))]
            raise UnknownEntityError(int(outside[0]), self.version)
        if self._vectors is None:
            return np.zeros((*wanted.shape, self.dimension), np.float32)
        rows = self._vectors.take(wanted, axis=0).astype(np.float32)
        rows[wanted < 0] = 0.0
        return rows

    def link(self, text: str, max_entities: int = 10) -> list[Link]:
        """The entities that `text` mentions: disjoint links in order, at most `max_entities`.

        Of more, the longest and most certain stay. A text without entities gives [].
        """
        return self.read(text, max_entities).links

    def read(self, text: str, max_entities: int = 10) -> Reading:
        """The links of `text`, and beside them the names that stand for no entity, with why."""
        if max_entities < 0:
            raise InvalidInputError(f"max_entities is {max_entities}; allowed are 0 and more")
        return self.linker.read(text, max_entities)

    def _check_lengths(self) -> None:
        """Sizes that a manifest cannot see: the arrays must fit each other."""
        surfaces = self._surfaces
        expected = {
            "ent_name.off.npy": (len(self._names), len(self)),
            "surf_ptr.npy": (len(surfaces.pointers), len(surfaces) + 1),
            "cand_id.npy": (len(surfaces.entities), surfaces.pointers[-1]),
            "cand_prior.npy": (len(surfaces.priors), surfaces.pointers[-1]),
        }
        if self._vectors is not None:
            wanted = len(self) * self.dimension
            expected["vectors.safetensors"] = (self._vectors.size, wanted)
        check_rows(self.path, expected)
