"""Facts in, one version directory out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import marisa_trie  # type: ignore[import-not-found]
import numpy as np

from knowledge.checking import Alias, CheckedFacts, Statement, check_facts
from knowledge.errors import InvalidInputError
from knowledge.linking import NORMALISATION, normalise
from knowledge.storage import Array, write_array, write_matrix, write_strings
from knowledge.versions import activate as activate_version
from knowledge.versions import check_version, copy_files, new_version, publish

TEXT_BIT = np.uint32(1 << 31)  # set in tri_obj: the other 31 bits number a text in val.bin
_LONGEST_SURFACE = 64
_VECTOR_FILES = {"vectors.safetensors", "relation_vectors.safetensors"}


@dataclass(frozen=True)
class BuildOptions:
    """How facts are read.

    objects: "all": every object is an entity; "subjects": only an object that is a subject too,
        or has an alias or a name; the others are kept as text.
    literal_relations: their objects are text in any case.
    link_objects: whether an entity that is only ever an object is linked by its name.
    activate: whether `CURRENT` names the new version afterwards.
    """

    objects: Literal["all", "subjects"] = "all"
    literal_relations: frozenset[str] = frozenset()
    link_objects: bool = True
    activate: bool = True

    def __post_init__(self) -> None:
        if self.objects not in ("all", "subjects"):
            raise InvalidInputError(f'objects is {self.objects!r}; allowed: "all", "subjects"')


def build_version(
    triples: Iterable[Statement],
    aliases: Iterable[Alias],
    store: Path,
    *,
    names: Mapping[str, str] | None = None,
    vectors: Array | None = None,
    options: BuildOptions | None = None,
) -> Path:
    """Build one version of a graph in `store` and return its directory, `store/<version>`.

    triples: (subject key, relation, object key or text).
    aliases: (surface, entity key, prior in (0, 1]); a prior of None is shared out by degree
        among the entities that the surface has without a prior.
    names: key -> display name; by default the key without a trailing `[...]`.
    vectors: (entities, d), rows in the order of the sorted keys. Usually left out: train later.

    The same facts in any order give the same ids and the same version. Facts with an empty or
    unstorable field, and priors out of range, are left out and counted by reason in
    `stats["refused"]`. Raises InvalidInputError (a row of the wrong type, no entity left, vectors
    of a wrong shape) and BuildError (disk).
    """
    options = options or BuildOptions()
    facts = check_facts(triples, aliases, names or {})
    entities = _entities(facts, options)
    if not entities:
        raise InvalidInputError(f"no fact and no alias to build from; refused: {facts.refused}")
    numbers = {key: number for number, key in enumerate(entities)}
    with new_version(store) as building:
        stats: dict[str, Any] = dict(_write_triples(building, facts, numbers, options))
        stats |= _write_entities(building, facts, entities)
        degrees = np.load(building / "ent_degree.npy")
        stats |= _write_surfaces(building, facts, numbers, degrees, options)
        stats |= {"dimension": 0, "normalisation": NORMALISATION}
        stats |= {"refused": dict(sorted(facts.refused.items()))}
        if vectors is not None:
            stats["dimension"] = _write_vectors(building, "vectors", vectors, len(entities))
        version = publish(building, store, stats)
    if options.activate:
        activate_version(store, version.name)
    return version


def add_vectors(
    version: Path, entities: Array, relations: Array | None = None, *, activate: bool = True
) -> Path:
    """Write a NEW version beside `version`, with these vectors, and return its directory.

    entities: (number of entities, d); relations: (number of relations, d), kept as float16.
    Raises InvalidInputError for a wrong shape or a value that float16 cannot hold.
    """
    manifest = check_version(version)
    store = version.parent
    with new_version(store) as building:
        copy_files(version, manifest, building, without=_VECTOR_FILES)
        dimension = _write_vectors(building, "vectors", entities, manifest.stats["entities"])
        if relations is not None:
            count = manifest.stats["relations"]
            if _write_vectors(building, "relation_vectors", relations, count) != dimension:
                raise InvalidInputError(f"entities have {dimension} columns, relations differ")
        target = publish(building, store, manifest.stats | {"dimension": dimension})
    if activate:
        activate_version(store, target.name)
    return target


def _entities(facts: CheckedFacts, options: BuildOptions) -> list[str]:
    found = facts.described | {key for _, key in facts.aliases}
    if options.objects == "all":
        literal = options.literal_relations
        found = found | {target for _, name, target in facts.triples if name not in literal}
    return sorted(found)


def _write_triples(
    building: Path, facts: CheckedFacts, numbers: dict[str, int], options: BuildOptions
) -> dict[str, int]:
    relations = sorted({relation for _, relation, _ in facts.triples})
    relation_numbers = {relation: number for number, relation in enumerate(relations)}
    literal = options.literal_relations
    is_text = [name in literal or target not in numbers for _, name, target in facts.triples]
    values = sorted({t for (_, _, t), text in zip(facts.triples, is_text, strict=True) if text})
    value_numbers = {value: number for number, value in enumerate(values)}
    rows = np.zeros((len(facts.triples), 3), np.int64)
    for i, (subject, relation, target) in enumerate(facts.triples):
        number = value_numbers[target] + int(TEXT_BIT) if is_text[i] else numbers[target]
        rows[i] = numbers[subject], relation_numbers[relation], number
    counts = np.bincount(rows[:, 0], minlength=len(numbers))
    links = rows[~np.array(is_text, bool)]
    degrees = counts + np.bincount(links[:, 2], minlength=len(numbers))
    write_array(building / "tri_ptr.npy", _pointers(counts, np.uint64))
    write_array(building / "tri_rel.npy", rows[:, 1].astype(np.uint32))
    write_array(building / "tri_obj.npy", rows[:, 2].astype(np.uint32))
    write_array(building / "ent_degree.npy", degrees.astype(np.uint32))
    write_strings(building / "val.bin", building / "val_off.npy", values)
    text = "".join(relation + "\n" for relation in relations)
    (building / "relations.txt").write_text(text, encoding="utf-8")
    return {"triples": len(rows), "relations": len(relations), "values": len(values)}


def _write_entities(building: Path, facts: CheckedFacts, entities: list[str]) -> dict[str, int]:
    names = (_name(facts, key) for key in entities)
    write_strings(building / "ent_key.bin", building / "ent_key.off.npy", entities)
    write_strings(building / "ent_name.bin", building / "ent_name.off.npy", names)
    return {"entities": len(entities)}


def _name(facts: CheckedFacts, key: str) -> str:
    """`苹果[公司]` is called 苹果, the way OwnThink writes senses."""
    if key in facts.names:
        return facts.names[key]
    return (key[: key.rfind("[")].strip() if key.endswith("]") else "") or key


def _write_surfaces(
    building: Path,
    facts: CheckedFacts,
    numbers: dict[str, int],
    degrees: Array,
    options: BuildOptions,
) -> dict[str, int]:
    meanings = _meanings(facts, numbers, degrees, options)
    too_long = [surface for surface in meanings if len(surface) > _LONGEST_SURFACE]
    for surface in too_long:
        del meanings[surface]
    trie = marisa_trie.Trie(sorted(meanings))
    trie.save(str(building / "names.marisa"))
    ordered = sorted(meanings, key=trie.get)
    rows = [row for surface in ordered for row in _ranked(meanings[surface])]
    counts = np.array([len(meanings[surface]) for surface in ordered], np.int64)
    write_array(building / "surf_ptr.npy", _pointers(counts, np.uint32))
    write_array(building / "cand_id.npy", np.array([entity for entity, _ in rows], np.uint32))
    write_array(building / "cand_prior.npy", np.array([prior for _, prior in rows], np.float16))
    longest = max(map(len, ordered), default=0)
    return {
        "surfaces": len(ordered),
        "surfaces_too_long": len(too_long),
        "candidates": len(rows),
        "longest_surface": longest,
    }


def _ranked(candidates: Mapping[int, float]) -> list[tuple[int, float]]:
    # The smallest positive float16 keeps a tiny prior from becoming 0.
    return sorted(
        ((entity, max(prior, 6e-8)) for entity, prior in candidates.items()),
        key=lambda pair: (-pair[1], pair[0]),
    )


def _meanings(
    facts: CheckedFacts, numbers: dict[str, int], degrees: Array, options: BuildOptions
) -> dict[str, dict[int, float]]:
    """Normalised surface -> {entity: prior}, from the aliases and the entities' own names."""
    given: dict[str, dict[int, float | None]] = {}
    for (surface, key), prior in facts.aliases.items():
        given.setdefault(surface, {})[numbers[key]] = prior
    spoken_for = set(given)
    aliased = {key for _, key in facts.aliases}
    for key, number in numbers.items():
        surface = normalise(_name(facts, key)).text
        is_object = key not in facts.described and key not in aliased
        if surface and not (is_object and (surface in spoken_for or not options.link_objects)):
            given.setdefault(surface, {}).setdefault(number, None)
    return {surface: _share(candidates, degrees) for surface, candidates in given.items()}


def _share(candidates: Mapping[int, float | None], degrees: Array) -> dict[int, float]:
    """Give the candidates without a prior their share of the degrees: (degree + 1) / sum."""
    known = {entity: prior for entity, prior in candidates.items() if prior is not None}
    open_ones = [entity for entity in candidates if entity not in known]
    total = sum(int(degrees[entity]) + 1 for entity in open_ones)
    return known | {entity: (int(degrees[entity]) + 1) / total for entity in open_ones}


def _pointers(counts: Array, dtype: type[np.unsignedinteger]) -> Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(dtype)


def _write_vectors(building: Path, stem: str, vectors: Array, rows: int) -> int:
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise InvalidInputError(f"{stem} have the shape {vectors.shape}, wanted ({rows}, d > 0)")
    if not np.isfinite(vectors).all() or np.abs(vectors).max(initial=0) > 65504:
        raise InvalidInputError(f"{stem} hold values that float16 cannot: train again")
    write_matrix(building / f"{stem}.safetensors", vectors)
    return int(vectors.shape[1])
