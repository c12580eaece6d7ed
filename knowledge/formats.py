"""Input files -> facts: JSONL of subjects and OwnThink CSV.

Readers count what they leave out, and why; the builder counts what it refuses in turn.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knowledge.checking import Alias, Statement
from knowledge.errors import FormatError, InvalidInputError

TYPE_RELATION = "类型"
_OWNTHINK_HEADER = ["实体", "属性", "值"]
_OWNTHINK_ALIASES = frozenset({"别名", "又称", "简称", "外文名"})
_SENSE, _SENSE_WEIGHT = "歧义关系", "歧义权重"


@dataclass
class Facts:
    """What a file says: triples and aliases for `build_version`; `skipped` counts by reason."""

    triples: list[Statement] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def read_facts(path: str | Path, file_format: str) -> Facts:
    """Read `path` as one of FORMATS. Raises FormatError with the line, or InvalidInputError."""
    if file_format not in FORMATS:
        raise InvalidInputError(f"format is {file_format!r}; allowed are {sorted(FORMATS)}")
    path = Path(path)
    try:
        # Bytes that are not UTF-8 become lone surrogates, which the builder refuses and counts.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            return FORMATS[file_format](path, lines)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error


def read_jsonl(path: Path, lines: Iterable[str]) -> Facts:
    """One subject a line: `{subject, alias, type, data: [{predicate, object}]}`.

    `alias` is a string or a list, `type` too; both and `data` may be absent. A type becomes a
    fact with the relation 类型. Blank lines are skipped; any other line must fit.
    """
    facts = Facts()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                _add_subject(facts, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(path, number, f"is not a subject ({error!r})") from error
    return facts


def read_ownthink(path: Path, lines: Iterable[str]) -> Facts:
    """CSV with the header 实体,属性,值, as OwnThink's dump has it, traps included.

    NUL bytes are removed, quoted commas and line breaks are read, an entity's rows may lie
    anywhere. `S,歧义关系,E` makes S a surface of E and `E,歧义权重,w` gives w its share of S's
    weights as the prior. Rows with an empty field or without three fields are counted.
    """
    facts = Facts()
    senses: dict[str, list[str]] = {}
    weights: dict[str, float] = {}
    rows = csv.reader(line.replace("\0", "") for line in lines)
    if next(rows, None) != _OWNTHINK_HEADER:
        raise FormatError(path, 1, f"the header is not {','.join(_OWNTHINK_HEADER)}")
    for subject, predicate, target in _complete(path, rows, facts.skipped):
        if predicate == _SENSE:
            senses.setdefault(subject, []).append(target)
        elif predicate == _SENSE_WEIGHT:
            _add_weight(weights, subject, target, facts.skipped)
        elif predicate in _OWNTHINK_ALIASES:
            facts.aliases.append((target, subject, None))
        else:
            facts.triples.append((subject, predicate, target))
    facts.aliases += _sense_aliases(senses, weights)
    return facts


FORMATS: dict[str, Callable[[Path, Iterable[str]], Facts]] = {
    "jsonl": read_jsonl,
    "ownthink": read_ownthink,
}


def _add_subject(facts: Facts, record: dict[str, Any]) -> None:
    subject = _text(record["subject"])
    facts.aliases += [(alias, subject, None) for alias in _texts(record.get("alias"))]
    facts.triples += [(subject, TYPE_RELATION, kind) for kind in _texts(record.get("type"))]
    for item in record.get("data") or []:
        facts.triples.append((subject, _text(item["predicate"]), _text(item["object"])))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [text for text in map(_text, values) if text.strip()]


def _complete(path: Path, rows: Any, skipped: Counter[str]) -> Iterator[tuple[str, str, str]]:
    try:
        for row in rows:
            fields = [" ".join(cell.split()) for cell in row]  # line breaks become spaces
            if len(fields) != 3:
                skipped["not three fields"] += 1
            elif not all(fields):
                skipped["empty field"] += 1
            else:
                yield fields[0], fields[1], fields[2]
    except csv.Error as error:
        raise FormatError(path, rows.line_num, f"is not CSV ({error})") from error


def _add_weight(weights: dict[str, float], entity: str, text: str, skipped: Counter[str]) -> None:
    if text.isdecimal() and int(text) > 0:
        weights[entity] = float(text)
    else:
        skipped["sense weight is not a positive whole number"] += 1


def _sense_aliases(senses: dict[str, list[str]], weights: dict[str, float]) -> Iterator[Alias]:
    for surface, entities in senses.items():
        if not any(entity in weights for entity in entities):
            yield from ((surface, entity, None) for entity in entities)
            continue
        # A sense without a weight beside weighted ones counts as seen once.
        total = sum(weights.get(entity, 1.0) for entity in entities)
        yield from ((surface, entity, weights.get(entity, 1.0) / total) for entity in entities)
