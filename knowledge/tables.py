"""Tables of three columns: OwnThink CSV, CN-DBpedia TSV, aliases CSV.

Plain lines go through numpy, a million at a time; a line with quotes, odd white space, an empty
field or another number of fields goes through Python, and comes to the same.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from knowledge.checking import (
    ALIAS,
    SENSE,
    TRIPLE,
    WEIGHT,
    Block,
    Refusals,
    Row,
    block_of,
    joined,
)
from knowledge.normalising import normal_forms
from knowledge.splitting import Chunk, Lines
from knowledge.storage import Array
from knowledge.strings import Strings

TYPE_RELATION = "类型"
_LONGEST_RECORD = 64  # lines that a quoted field may span before its quote counts as broken
_ALIASES = dict.fromkeys(["别名", "又称", "简称", "外文名"], ALIAS)
Fields = list[str]
Columns = tuple[Strings, Strings, Strings]


class Reading(Protocol):
    """What sets one table apart from the others."""

    @property
    def separator(self) -> str:
        """What stands between two fields."""

    @property
    def quotes(self) -> bool:
        """Whether a quoted field may hold separators and line breaks."""

    def row(self, fields: Fields) -> Row | str:
        """The fields of a line -> a row, or the reason to refuse it."""

    def is_plain(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Which lines `block` can read; the others go through `row`."""

    def block(self, columns: Columns) -> Block:
        """The rows of plain lines; the texts of aliases are not normalised yet."""


@dataclass(frozen=True)
class FactTable:
    """Lines of subject, relation, value; `special` relations say something else than facts."""

    separator: str
    quotes: bool
    special: Mapping[str, int]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def row(self, fields: Fields) -> Row | str:
        """See `Reading`."""
        if len(fields) != 3:
            return "row: not three fields"
        subject, relation, text = (" ".join(cell.split()) for cell in fields)
        kind = self.special.get(relation, TRIPLE)
        if kind == SENSE:
            return SENSE, text, "", subject, math.nan
        if kind == WEIGHT:
            if not (text.isdecimal() and int(text) > 0):
                return "sense weight: not a positive whole number"
            return WEIGHT, subject, "", "", float(text)
        relation = self.renamed.get(relation, relation)
        return kind, subject, relation if kind == TRIPLE else "", text, math.nan

    def is_plain(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """See `Reading`."""
        return _full(columns) & (self._kinds(columns[1]) != WEIGHT)

    def block(self, columns: Columns) -> Block:
        """See `Reading`."""
        subject, relation, text = columns
        kind = self._kinds(relation)
        sense = kind == SENSE
        # In a row of senses the surface comes first and the entity last.
        starts = np.where(sense, [text.starts, subject.starts], [subject.starts, text.starts])
        lengths = np.where(sense, [text.lengths, subject.lengths], [subject.lengths, text.lengths])
        columns = (
            Strings(subject.data, starts[0], lengths[0]),
            Strings(relation.data, relation.starts, relation.lengths * (kind == TRIPLE)),
            Strings(text.data, starts[1], lengths[1]),
        )
        for name, other in self.renamed.items():
            rows = columns[1].equal_to(name.encode())
            named = columns[1].replaced(rows, [other.encode()] * len(rows))
            columns = (columns[0], named, columns[2])
        return Block(*columns, kind, np.full(len(kind), math.nan))

    def _kinds(self, relation: Strings) -> Array:
        kinds = np.zeros(len(relation), np.uint8)
        for name, kind in self.special.items():
            kinds[relation.equal_to(name.encode())] = kind
        return kinds


@dataclass(frozen=True)
class AliasTable:
    """Lines of surface, entity, prior; the prior may be empty or left out."""

    separator: str = ","
    quotes: bool = True

    def row(self, fields: Fields) -> Row | str:
        """See `Reading`."""
        if len(fields) not in (2, 3):
            return "row: not two or three fields"
        surface, entity, prior = (" ".join(cell.split()) for cell in [*fields, ""][:3])
        try:
            number = float(prior) if prior else math.nan
        except ValueError:
            return "alias: prior is not a number"
        if prior and math.isnan(number):
            return "alias: prior is not a number"
        return ALIAS, entity, "", surface, number

    def is_plain(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """See `Reading`. Only priors like 0.25 or 1 are plain."""
        prior = columns[2]
        good = [text.replace(b".", b"", 1).isdigit() and 0 < float(text) <= 1 for text in prior]
        return _full(columns) & np.array(good, bool)

    def block(self, columns: Columns) -> Block:
        """See `Reading`."""
        surface, entity, prior = columns
        numbers = np.fromiter(map(float, prior), np.float64, len(prior))
        nothing = Strings(entity.data, entity.starts, entity.lengths * 0)
        return Block(entity, nothing, surface, np.full(len(prior), ALIAS, np.uint8), numbers)


OWNTHINK = FactTable(",", True, _ALIASES | {"歧义关系": SENSE, "歧义权重": WEIGHT})
CNDBPEDIA = FactTable("\t", False, _ALIASES, {"BaiduTAG": TYPE_RELATION, "BaiduCARD": "描述"})
ALIASES = AliasTable()


def read_table(table: Reading, chunk: Chunk, refusals: Refusals) -> tuple[Block, int]:
    """The rows of whole lines.

    Also how many bytes were read: fewer than all if a quoted field goes on behind them, which it
    cannot if they are final.
    """
    lines = Lines(chunk.data, ord(table.separator), table.quotes)
    plain = lines.plain.copy()
    rows = np.flatnonzero(plain)
    plain[rows] = table.is_plain(lines.columns(rows))
    odd, end = _odd_rows(table, lines, plain, chunk, refusals)
    fast = _normalised(
        table.block(lines.columns(np.flatnonzero(plain[:end]))), refusals, chunk.line
    )
    slow = block_of(odd, refusals)
    taken = int(lines.starts[end]) if end < len(plain) else len(chunk.data)
    return joined(fast, slow) if len(slow) else fast, taken


def senses_in_brackets(block: Block) -> list[tuple[int, Row]]:
    """`苹果（水果）` is called 苹果: an alias for every such subject."""
    ends = block.subject.starts + block.subject.lengths
    marked = block.subject.data[ends - 1] == "）".encode()[-1]
    keys = {block.subject[row].decode() for row in np.flatnonzero(marked).tolist()}
    names = ((key, key[: key.rfind("（")]) for key in sorted(keys) if key.endswith("）"))
    return [(0, (ALIAS, key, "", name, math.nan)) for key, name in names if name and name != key]


def _full(columns: Columns) -> npt.NDArray[np.bool_]:
    return np.logical_and.reduce([column.lengths > 0 for column in columns])


def _normalised(block: Block, refusals: Refusals, line: int) -> Block:
    """The block with the surfaces of its aliases normalised, less those of which nothing stays."""
    rows = np.flatnonzero((block.kind == ALIAS) | (block.kind == SENSE))
    if not len(rows):
        return block
    forms = normal_forms(block.text.take(rows))
    text = block.text.replaced(rows, list(forms))
    kept = np.ones(len(block), bool)
    for row in rows[forms.lengths == 0].tolist():
        kept[row] = False
        refusals.add("alias: empty field", line, block.text[row].decode())
    found = [column.take(kept) for column in (block.subject, block.relation, text)]
    return Block(found[0], found[1], found[2], block.kind[kept], block.number[kept])


def _odd_rows(
    table: Reading,
    lines: Lines,
    plain: npt.NDArray[np.bool_],
    chunk: Chunk,
    refusals: Refusals,
) -> tuple[list[tuple[int, Row]], int]:
    """(line, row) of what is not plain, and the number of lines that were read.

    Lines inside a quoted field are no lines of their own: `plain` is cleared there.
    """
    found: list[tuple[int, Row]] = []
    end, behind = len(plain), 0
    for number in np.flatnonzero(~plain).tolist():
        if number < behind:
            continue
        fields, count = _record(table, lines, number)
        # It goes on in the next chunk, unless it fills all of this one: then its quote is broken.
        if not count and not chunk.final and number:
            end = number
            break
        behind = number + max(count, 1)
        plain[number:behind] = False
        row = "row: broken quotes" if fields is None else table.row(fields)
        if isinstance(row, str):
            refusals.add(row, chunk.line + number, lines.text(number))
        else:
            found.append((chunk.line + number, row))
    return found, end


def _record(table: Reading, lines: Lines, number: int) -> tuple[Fields | None, int]:
    """The fields of the record that begins on a line, and how many lines it takes.

    None for broken quotes; 0 lines if a quote is still open where the block ends.
    """
    text = lines.text(number).replace("\0", "")
    if not table.quotes or '"' not in text:
        return text.split(table.separator), 1
    last = min(number + _LONGEST_RECORD, len(lines.starts))
    texts = (lines.text(row).replace("\0", "") + "\n" for row in range(number, last))
    reader = csv.reader(texts, delimiter=table.separator, strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error as error:
        is_open = "unexpected end" in str(error) and last == len(lines.starts)
        return None, 0 if is_open and last < number + _LONGEST_RECORD else 1
