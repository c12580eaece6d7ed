"""Input files -> blocks of checked rows, whatever the file's length; or lists, for small files.

What a reader leaves out is counted by reason in `Refusals`, with the first lines of each.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.checking import (
    ALIAS,
    SENSE,
    TRIPLE,
    WEIGHT,
    Alias,
    Block,
    Refusals,
    Row,
    Statement,
    block_of,
    joined,
)
from knowledge.errors import FormatError, InvalidInputError
from knowledge.ntriples import read_ntriples
from knowledge.splitting import Chunk, whole_lines
from knowledge.storage import Array
from knowledge.tables import (
    ALIASES,
    CNDBPEDIA,
    OWNTHINK,
    TYPE_RELATION,
    read_table,
    senses_in_brackets,
)

_OWNTHINK_HEADER = "实体,属性,值"
_ALIASES_HEADER = "surface,entity,prior"
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Position:
    """A place in an input file: the byte, and the number of the line that begins there."""

    byte: int = 0
    line: int = 1


@dataclass
class Facts:
    """What a file says: `build_version` takes triples, aliases and names; `skipped` counts."""

    triples: list[Statement] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def read_facts(path: str | Path, file_format: str) -> Facts:
    """Read all of `path`, one of FORMATS, into memory; surfaces come normalised.

    For large files see `build_from_file`. Raises FormatError with the line, or InvalidInputError.
    """
    refusals, facts = Refusals(), Facts()
    senses: dict[tuple[str, str], None] = {}
    weights: dict[str, float] = {}
    for block, _ in read_blocks(path, file_format, refusals):
        columns = (block.subject, block.relation, block.text)
        texts = [[text.decode() for text in column] for column in columns]
        rows = zip(block.kind.tolist(), *texts, block.number.tolist(), strict=True)
        for kind, subject, relation, text, number in rows:
            if kind == TRIPLE:
                facts.triples.append((subject, relation, text))
            elif kind == ALIAS:
                facts.aliases.append((text, subject, None if math.isnan(number) else number))
            elif kind == SENSE:
                senses[text, subject] = None
            elif kind == WEIGHT:
                weights[subject] = max(number, weights.get(subject, 0.0))
            elif facts.names.setdefault(subject, text) != text:
                facts.aliases.append((text, subject, None))
    facts.aliases += _sense_aliases(list(senses), weights)
    facts.skipped = refusals.counts
    return facts


def read_blocks(
    path: str | Path, file_format: str, refusals: Refusals, start: Position | None = None
) -> Iterator[tuple[Block, Position]]:
    """Blocks of about 16 MB of input, each with the place behind it, from which reading can go on.

    Raises FormatError with the line for a foreign header or a line that JSONL cannot be, and
    InvalidInputError for a file that cannot be read or a format that does not exist.
    """
    if file_format not in FORMATS:
        raise InvalidInputError(f"format is {file_format!r}; allowed are {sorted(FORMATS)}")
    path, position = Path(path), start or Position()
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if not position.byte:
                position = _behind_header(path, file.readline(), file_format)
            file.seek(position.byte)
            pending = b""
            for lines, cut in whole_lines(file):
                data, final = pending + lines, file.tell() >= size or cut
                chunk = Chunk(path, data, position.line, final)
                block, taken = FORMATS[file_format](chunk, refusals)
                pending = data[taken:]
                line = position.line + data.count(b"\n", 0, taken)
                if cut:
                    refusals.add("row: longer than 16 MiB", line, "")
                position = Position(file.tell() - len(pending), line + cut)
                yield block, position
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error


def sense_priors(surface: Array, weight: Array) -> Array:
    """The share that each sense has of its surface, (n,); NaN where no sense of it has a weight.

    surface: numbers of surfaces; weight: how often a sense is meant, NaN if unknown, which counts
    as once beside senses that have a weight.
    """
    known = ~np.isnan(weight)
    filled = np.where(known, weight, 1.0)
    shares = filled / np.bincount(surface, filled)[surface]
    weighed = np.bincount(surface, known)[surface] > 0
    return np.where(weighed, shares, math.nan)


def _behind_header(path: Path, line: bytes, file_format: str) -> Position:
    mark = len(_MARK) * line.startswith(_MARK)
    text = line[mark:].decode("utf-8", "replace").rstrip("\r\n")
    if file_format == "ownthink" and text != _OWNTHINK_HEADER:
        raise FormatError(path, 1, f"the header is not {_OWNTHINK_HEADER}")
    if file_format == "ownthink" or (file_format == "aliases" and text == _ALIASES_HEADER):
        return Position(len(line), 2)
    return Position(mark, 1)


def _sense_aliases(senses: list[tuple[str, str]], weights: dict[str, float]) -> Iterator[Alias]:
    if not senses:
        return
    _, surfaces = np.unique([surface for surface, _ in senses], return_inverse=True)
    known = np.array([weights.get(entity, math.nan) for _, entity in senses])
    for (surface, entity), prior in zip(senses, sense_priors(surfaces, known), strict=True):
        yield surface, entity, None if math.isnan(prior) else float(prior)


def _read_jsonl(chunk: Chunk, refusals: Refusals) -> tuple[Block, int]:
    """One subject a line: `{subject, alias, type, data: [{predicate, object}]}`.

    `alias` is a string or a list, `type` too; both and `data` may be absent. A type becomes a
    fact with the relation 类型. Blank lines are skipped; any other line must fit.
    """
    rows: list[tuple[int, Row]] = []
    lines = chunk.data.decode("utf-8", "surrogateescape").split("\n")[:-1]
    for number, text in enumerate(lines, chunk.line):
        if text.strip():
            try:
                rows += ((number, row) for row in _subject(json.loads(text)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"is not a subject ({error!r})"
                raise FormatError(chunk.path, number, reason) from error
    return block_of(rows, refusals), len(chunk.data)


def _subject(record: dict[str, Any]) -> list[Row]:
    subject = _text(record["subject"])
    rows: list[Row] = []
    rows += ((ALIAS, subject, "", alias, math.nan) for alias in _texts(record.get("alias")))
    rows += (
        (TRIPLE, subject, TYPE_RELATION, kind, math.nan) for kind in _texts(record.get("type"))
    )
    for item in record.get("data") or []:
        rows.append((TRIPLE, subject, _text(item["predicate"]), _text(item["object"]), math.nan))
    return rows


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [text for text in map(_text, values) if text.strip()]


def _read_cndbpedia(chunk: Chunk, refusals: Refusals) -> tuple[Block, int]:
    block, taken = read_table(CNDBPEDIA, chunk, refusals)
    return joined(block, block_of(senses_in_brackets(block), refusals)), taken


# A reader takes whole lines, and where to count; it gives their rows, and the bytes that it read.
Reader = Callable[[Chunk, Refusals], tuple[Block, int]]
FORMATS: dict[str, Reader] = {
    "aliases": partial(read_table, ALIASES),
    "cndbpedia": _read_cndbpedia,
    "jsonl": _read_jsonl,
    "ntriples": read_ntriples,
    "ownthink": partial(read_table, OWNTHINK),
}
