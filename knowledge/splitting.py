"""Lines of three fields, split a block at a time by numpy; what is not plain is left to Python.

A line is plain if it is UTF-8 and has two separators, no quote where quotes mean something, no
control character, and no white space that reading would change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from knowledge.storage import Array
from knowledge.strings import Integers, Strings

_NEWLINE, _RETURN, _SPACE, _QUOTE = 10, 13, 32, 34
BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Chunk:
    """Whole lines of a file.

    line: the number of the first of them; final: whether nothing comes behind them.
    """

    path: Path
    data: bytes
    line: int
    final: bool


@dataclass(frozen=True)
class Lines:
    """The lines of a block of bytes. Fields of line i lie between starts, cuts and ends."""

    data: bytes
    separator: int
    quotes: bool

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.data + bytes(8), np.uint8)

    @cached_property
    def starts(self) -> Integers:
        """Where each line begins."""
        return np.concatenate([[0], self._breaks[:-1] + 1])

    @cached_property
    def _breaks(self) -> Integers:
        return np.flatnonzero(self._bytes[: len(self.data)] == _NEWLINE)

    @cached_property
    def ends(self) -> Integers:
        """Where each line ends, less its line break."""
        before = self._bytes[np.maximum(self._breaks - 1, 0)] == _RETURN
        return self._breaks - (before & (self._breaks > self.starts))

    @cached_property
    def plain(self) -> npt.NDArray[np.bool_]:
        """Which lines are plain."""
        plain = self._cut_counts == 2
        plain[np.searchsorted(self._breaks, self._odd_places())] = False
        return plain & self._valid()

    @cached_property
    def _cuts(self) -> Integers:
        return np.flatnonzero(self._bytes[: len(self.data)] == self.separator)

    @cached_property
    def _first_cut(self) -> Integers:
        return np.searchsorted(self._cuts, self.starts)

    @property
    def _cut_counts(self) -> Integers:
        return np.diff(self._first_cut, append=len(self._cuts))

    def columns(self, rows: Array) -> tuple[Strings, Strings, Strings]:
        """The three fields of these plain lines."""
        start, end = self.starts[rows], self.ends[rows]
        first = self._cuts[self._first_cut[rows]]
        second = self._cuts[self._first_cut[rows] + 1]
        return (
            Strings(self._bytes, start, first - start),
            Strings(self._bytes, first + 1, second - first - 1),
            Strings(self._bytes, second + 1, end - second - 1),
        )

    def text(self, row: int) -> str:
        """One line without its break; bytes that are no UTF-8 become lone surrogates."""
        return self.data[self.starts[row] : self.ends[row]].decode("utf-8", "surrogateescape")

    def _odd_places(self) -> Integers:
        """Positions of control characters, quotes, and white space that is not one inner space."""
        data = self._bytes
        table = np.zeros(256, np.uint8)
        table[:33] = table[127] = table[[0xC2, 0xE1, 0xE2, 0xE3]] = 1
        table[_NEWLINE] = table[self.separator] = 0
        table[_QUOTE] = self.quotes
        marks = np.frombuffer(self.data.translate(table.tobytes()), np.uint8)
        places = np.flatnonzero(marks)
        here, after, third = data[places], data[places + 1], data[places + 2]
        before = np.where(places > 0, data[places - 1], _NEWLINE)
        edges = [_SPACE, _NEWLINE, _RETURN, self.separator]
        at_edge = np.isin(before, edges) | np.isin(after, edges) | (places == len(self.data) - 1)
        odd = (here < _SPACE) & ~((here == _RETURN) & (after == _NEWLINE))
        odd |= (here == 127) | (here == _QUOTE) | ((here == _SPACE) & at_edge)
        odd |= is_wide_space(here, after, third)
        return places[odd]

    def _valid(self) -> npt.NDArray[np.bool_]:
        valid = np.ones(len(self.starts), bool)
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError:
            for row, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
                try:
                    self.data[start:end].decode("utf-8")
                except UnicodeDecodeError:
                    valid[row] = False
        return valid


def is_wide_space(here: Array, after: Array, third: Array) -> npt.NDArray[np.bool_]:
    """White space of more than one byte: U+0085 A0 1680 2000-200A 2028 2029 202F 205F 3000."""
    found = (here == 0xC2) & ((after == 0x85) | (after == 0xA0))
    found |= (here == 0xE1) & (after == 0x9A)
    general = (third <= 0x8A) | (third == 0xA8) | (third == 0xA9) | (third == 0xAF)
    found |= (here == 0xE2) & (after == 0x80) & general
    found |= (here == 0xE2) & (after == 0x81) & (third == 0x9F)
    return found | ((here == 0xE3) & (after == 0x80) & (third == 0x80))


def whole_lines(file: BufferedReader, size: int = BLOCK_BYTES) -> Iterator[tuple[bytes, bool]]:
    """(block, cut): blocks of about `size` bytes that end in a line break.

    cut: a line of more than `size` bytes follows the block, which leaves it out.
    """
    while block := file.read(size):
        block += file.readline(size)
        if block.endswith(b"\n"):
            yield block, False
        elif len(block) < 2 * size:  # the end of the file, without a line break
            yield block + b"\n", False
        else:
            while (rest := file.readline(size)) and not rest.endswith(b"\n"):
                pass
            yield block[: block.rfind(b"\n") + 1], True
