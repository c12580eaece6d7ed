"""A graph that was built anew keeps the vectors of an older version: nothing is trained again."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from knowledge.builder import add_vectors
from knowledge.errors import InvalidInputError, UnknownEntityError
from knowledge.graph import KnowledgeGraph
from knowledge.storage import map_matrix

Floats = npt.NDArray[np.float32]


def carry_vectors(version: Path, older: Path, *, activate: bool = True) -> Path:
    """Write a NEW version, `version` with the vectors of `older`; return its directory.

    Entities are told by their keys. One that `older` does not have gets the mean of what its facts
    with known entities expect, t - r and h + r; without such a fact a row of zeros. Raises
    InvalidInputError if `older` has no vectors.
    """
    new, old = KnowledgeGraph.open(version), KnowledgeGraph.open(older)
    if not (old.path / "relation_vectors.safetensors").is_file():
        raise InvalidInputError(f"{old.path} has no vectors to keep; run `train` on it first")
    places = np.array([_place(old, new.key(entity)) for entity in range(len(new))], np.int64)
    vectors, relations = old.vectors(places), _relation_vectors(new, old)
    _add_new(vectors, places < 0, relations, new.triples())
    return add_vectors(new.path, vectors, np.nan_to_num(relations), activate=activate)


def _place(graph: KnowledgeGraph, key: str) -> int:
    try:
        return graph.entity(key)
    except UnknownEntityError:
        return -1


def _relation_vectors(new: KnowledgeGraph, old: KnowledgeGraph) -> Floats:
    """(relations of `new`, d); NaN for one that `old` does not have."""
    known = map_matrix(old.path / "relation_vectors.safetensors")
    found = np.full((len(new.relations), old.dimension), np.nan, np.float32)
    for row, name in enumerate(new.relations):
        if name in old.relations:
            found[row] = known[old.relations.index(name)]
    return found


def _add_new(
    vectors: Floats,
    is_new: npt.NDArray[np.bool_],
    relations: Floats,
    triples: npt.NDArray[np.int32],
) -> None:
    """Fill the rows of new entities, zeros so far, from the facts that tie them to known ones."""
    facts = triples[np.isfinite(relations[:, 0])[triples[:, 1]]]
    counts = np.zeros(len(vectors), np.float32)
    for own, other, sign in ((0, 2, -1), (2, 0, 1)):
        rows = facts[is_new[facts[:, own]] & ~is_new[facts[:, other]]]
        expected = vectors[rows[:, other]] + sign * relations[rows[:, 1]]
        np.add.at(vectors, rows[:, own], expected)
        np.add.at(counts, rows[:, own], 1)
    vectors[is_new] /= np.maximum(counts[is_new], 1)[:, None]
