"""Facts in, one version directory out; memory does not grow with the number of facts."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from knowledge.checking import Alias, Refusals, Statement, blocks_of
from knowledge.dictionary import write_dictionary
from knowledge.errors import InvalidInputError
from knowledge.formats import Position, read_blocks
from knowledge.linking import NORMALISATION
from knowledge.naming import gather
from knowledge.numbering import TEXT_BIT, Work, number_strings, write_block, write_facts
from knowledge.storage import Array, replace_text, write_matrix
from knowledge.versions import activate as activate_version
from knowledge.versions import check_version, copy_files, new_version, publish

__all__ = ["TEXT_BIT", "BuildOptions", "add_vectors", "build_from_file", "build_version"]
_VECTOR_FILES = {"vectors.safetensors", "relation_vectors.safetensors"}
_JOURNAL = "journal.json"
_WORK_FORMAT = 1  # of intermediate files: a build does not go on with those of other code
# Called with the stage (read, number, sort, merge, name) and the part of it that is done, 0 to 1.
Progress = Callable[[str, float], None]


def _tell_nobody(stage: str, part: float) -> None:
    """The progress of a build that nobody asked for."""


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

    triples: (subject key, relation, object key or text). Generators are read as they go.
    aliases: (surface, entity key, prior in (0, 1]); a prior of None is shared out by degree
        among the entities that the surface has without a prior.
    names: key -> display name; by default the key without a trailing `[...]`.
    vectors: (entities, d), rows in the order of the sorted keys. Usually left out: train later.

    The same facts in any order give the same ids and the same version. Facts with an empty or
    unstorable field, and priors out of range, are left out and counted by reason in
    `stats["refused"]`; the first of each stand in `store/<version>.refused.jsonl`. Raises
    InvalidInputError (a row of the wrong type, no entity left, vectors of a wrong shape) and
    BuildError (disk).
    """
    options, refusals = options or BuildOptions(), Refusals()
    blocks = blocks_of(triples, aliases, names or {}, refusals)
    with new_version(Path(store)) as building:
        work, count = Work(building.parent), 0
        for block in blocks:
            write_block(work, count, block, options.literal_relations)
            count += 1
        stats = _write_version(work, count, building, refusals, options)
        if vectors is not None:
            stats["dimension"] = _write_vectors(building, "vectors", vectors, stats["entities"])
        return _publish(building, Path(store), stats, refusals, options)


def build_from_file(
    path: str | Path,
    file_format: str,
    store: str | Path,
    *,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build a version from a file in one of `knowledge.formats.FORMATS`; see `build_version`.

    A build that was killed goes on where it was when it is run again, as long as the file did not
    change. Raises FormatError, InvalidInputError and BuildError.
    """
    path, store, options = Path(path), Path(store), options or BuildOptions()
    tell = progress or _tell_nobody
    with new_version(store, resume=_fingerprint(path, file_format, options)) as building:
        work = Work(building.parent)
        count, refusals = _read(work, path, file_format, options, tell)
        stats = _write_version(work, count, building, refusals, options, tell)
        return _publish(building, store, stats, refusals, options)


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


def _read(
    work: Work, path: Path, file_format: str, options: BuildOptions, tell: Progress
) -> tuple[int, Refusals]:
    """Write the blocks of a file that are not written yet; how many there are in all."""
    journal = work.folder / _JOURNAL
    count, position, refusals = 0, Position(), Refusals()
    if journal.exists():
        state = json.loads(journal.read_text(encoding="utf-8"))
        count, position = state["blocks"], Position(**state["position"])
        refusals = Refusals.restored(state["refusals"])
    size = max(path.stat().st_size, 1)
    for block, behind in read_blocks(path, file_format, refusals, position):
        tell("read", behind.byte / size)
        write_block(work, count, block, options.literal_relations)
        count += 1
        state = {"blocks": count, "position": asdict(behind), "refusals": refusals.state()}
        replace_text(journal, json.dumps(state))
    return count, refusals


def _write_version(
    work: Work,
    blocks: int,
    building: Path,
    refusals: Refusals,
    options: BuildOptions,
    tell: Progress = _tell_nobody,
) -> dict[str, Any]:
    """The files of a version from all blocks, and its statistics."""
    tell("number", 0.0)
    found = number_strings(work, blocks, building, all_objects=options.objects == "all")
    if not found.entities:
        refused = dict(refusals.counts)
        raise InvalidInputError(f"no fact and no alias to build from; refused: {refused}")
    tell("sort", 0.0)
    naming, facts = gather(work, blocks, found)
    tell("merge", 0.0)
    triples, degrees = write_facts(facts, building, found.entities)
    tell("name", 0.0)
    naming.write_names(building, link_objects=options.link_objects)
    surfaces = write_dictionary(work.folder, building, naming, degrees)
    tell("name", 1.0)
    return {
        "triples": triples,
        "relations": found.relations,
        "values": found.values,
        "entities": found.entities,
        **surfaces,
        "dimension": 0,
        "normalisation": NORMALISATION,
        "refused": dict(sorted(refusals.counts.items())),
    }


def _publish(
    building: Path,
    store: Path,
    stats: Mapping[str, Any],
    refusals: Refusals,
    options: BuildOptions,
) -> Path:
    version = publish(building, store, stats)
    if refusals.counts:
        refusals.write(store / f"{version.name}.refused.jsonl")
    if options.activate:
        activate_version(store, version.name)
    return version


def _fingerprint(path: Path, file_format: str, options: BuildOptions) -> str:
    """What a build depends on, as a name for its intermediate files."""
    try:
        facts = path.stat()
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error
    identity = [str(path.resolve()), facts.st_size, facts.st_mtime_ns, file_format, NORMALISATION]
    settings = [options.objects, sorted(options.literal_relations), options.link_objects]
    text = json.dumps([_WORK_FORMAT, *identity, *settings])
    return sha256(text.encode()).hexdigest()[:16]


def _write_vectors(building: Path, stem: str, vectors: Array, rows: int) -> int:
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise InvalidInputError(f"{stem} have the shape {vectors.shape}, wanted ({rows}, d > 0)")
    try:
        write_matrix(building / f"{stem}.safetensors", vectors)
    except OverflowError as error:
        raise InvalidInputError(f"{stem} hold values that float16 cannot: train again") from error
    return int(vectors.shape[1])
