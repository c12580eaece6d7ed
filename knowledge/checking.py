"""The door: every fact and alias is checked here, once. What is refused is counted by reason."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.errors import InvalidInputError
from knowledge.linking import normal_text
from knowledge.storage import Array, replace_text
from knowledge.strings import Strings, as_texts

Statement = tuple[str, str, str]  # subject key, relation, object key or text
Alias = tuple[str, str, float | None]  # surface, entity key, prior in (0, 1] or unknown
# One row of a block: kind, entity key, relation, text, number (NaN where there is none).
Row = tuple[int, str, str, str, float]

# What a row says of the entity `subject`. TRIPLE: a fact. ALIAS: the text is a surface, with the
# number as its prior. SENSE: the text is an ambiguous surface; WEIGHT: the number is how often
# the entity is meant by such a surface. NAME: the text is shown to people.
TRIPLE, ALIAS, SENSE, WEIGHT, NAME = range(5)
_KINDS = ("triple", "alias", "alias", "sense weight", "name")
_EXAMPLES = 10  # lines of each reason that are kept
_LONGEST_EXAMPLE = 200
_BATCH = 200_000
# Lines end a relation in relations.txt; NUL and lone surrogates fit in no file here.
_UNSTORABLE = re.compile("[\0\n\r\ud800-\udfff]")


@dataclass(frozen=True)
class Block:
    """Rows that passed the door, as columns; texts of aliases are normalised.

    number: a prior or weight, NaN without one.
    """

    subject: Strings
    relation: Strings
    text: Strings
    kind: Array
    number: Array

    def __len__(self) -> int:
        return len(self.kind)


@dataclass
class Refusals:
    """What was left out: how often by reason, and the first lines of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def add(self, reason: str, line: int, text: str, count: int = 1) -> None:
        """Count rows; `line` and `text` are of the first of them."""
        self.counts[reason] += count
        kept = self.examples.setdefault(reason, [])
        if len(kept) < _EXAMPLES:
            kept.append((line, text[:_LONGEST_EXAMPLE]))

    def write(self, path: Path) -> None:
        """One JSON object a line: reason, line (from 1), text."""
        rows = [
            {"reason": reason, "line": line, "text": _readable(text)}
            for reason, lines in sorted(self.examples.items())
            for line, text in lines
        ]
        replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def state(self) -> dict[str, Any]:
        """What `restored` needs, for a file."""
        return {"counts": dict(self.counts), "examples": self.examples}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Refusals":
        """The refusals of a build that goes on."""
        examples = {
            reason: [(int(line), str(text)) for line, text in lines]
            for reason, lines in state["examples"].items()
        }
        return cls(Counter(state["counts"]), examples)


def _readable(text: str) -> str:
    """The text with bytes that were no UTF-8 written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def checked(row: Row) -> Row | str:
    """The row as it is stored, or the reason why it is refused."""
    kind, number = row[0], row[4]
    texts = [text.strip() for text in row[1:4]]
    needed = texts if kind == TRIPLE else texts[:1] if kind == WEIGHT else texts[::2]
    if not all(needed):
        return f"{_KINDS[kind]}: empty field"
    if any(map(_UNSTORABLE.search, texts)):
        return f"{_KINDS[kind]}: NUL, line break or not UTF-8"
    if kind == ALIAS and not (math.isnan(number) or 0 < number <= 1):
        return "alias: prior outside (0, 1]"
    if kind in (ALIAS, SENSE):
        texts[2] = normal_text(texts[2])
        if not texts[2]:  # a lone variation selector normalises to nothing
            return "alias: empty field"
        if _UNSTORABLE.search(texts[2]):
            return "alias: NUL, line break or not UTF-8"
    return kind, texts[0], texts[1], texts[2], number


def block_of(rows: Iterable[tuple[int, Row]], refusals: Refusals) -> Block:
    """Check (line, row) pairs and put those that pass into one block."""
    kept: list[Row] = []
    for line, row in rows:
        found = checked(row)
        if isinstance(found, str):
            refusals.add(found, line, "\t".join(map(str, row[1:4])))
        else:
            kept.append(found)
    subjects = as_texts(row[1] for row in kept)
    relations = as_texts(row[2] for row in kept)
    texts = as_texts(row[3] for row in kept)
    kinds = np.fromiter((row[0] for row in kept), np.uint8, len(kept))
    numbers = np.fromiter((row[4] for row in kept), np.float64, len(kept))
    return Block(subjects, relations, texts, kinds, numbers)


def joined(first: Block, second: Block) -> Block:
    """The rows of both."""
    pairs = ("subject", "relation", "text")
    columns = [Strings.joined([getattr(first, name), getattr(second, name)]) for name in pairs]
    kinds = np.concatenate([first.kind, second.kind])
    numbers = np.concatenate([first.number, second.number])
    return Block(columns[0], columns[1], columns[2], kinds, numbers)


def blocks_of(
    triples: Iterable[Statement],
    aliases: Iterable[Alias],
    names: Mapping[str, str],
    refusals: Refusals,
) -> Iterator[Block]:
    """Facts from memory or a generator, as blocks.

    A bad value (empty, unstorable, out of range) is counted; a row of the wrong shape or type is
    the caller's mistake: InvalidInputError.
    """
    rows = enumerate(
        chain(map(_triple, triples), map(_alias, aliases), map(_name, names.items())), 1
    )
    while batch := list(islice(rows, _BATCH)):
        yield block_of(batch, refusals)


def _triple(row: Statement) -> Row:
    subject, relation, target = _strings("triple", row, row, 3)
    return TRIPLE, subject, relation, target, math.nan


def _alias(row: Alias) -> Row:
    surface, key = _strings("alias", row, row[:2], 2)
    prior = row[2] if len(row) == 3 else None
    if prior is not None and not isinstance(prior, (int, float)):
        raise InvalidInputError(f"alias {row!r}: the prior is a number in (0, 1] or None")
    if prior is not None and math.isnan(prior):
        prior = math.inf  # not "none given", but out of range
    return ALIAS, key, "", surface, math.nan if prior is None else float(prior)


def _name(row: tuple[str, str]) -> Row:
    key, name = _strings("name", row, row, 2)
    return NAME, key, "", name, math.nan


def _strings(kind: str, row: object, fields: Iterable[object], count: int) -> list[str]:
    texts = [text for text in fields if isinstance(text, str)]
    if len(texts) != count or len(list(fields)) != count:
        raise InvalidInputError(f"{kind} {row!r}: wanted {count} strings")
    return texts
