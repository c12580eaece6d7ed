"""Columns of byte strings: millions at a time are hashed, compared and sorted by numpy.

A string is looked at eight bytes at a time, as a big-endian number padded with zeros, so that
numbers compare as the bytes do. UTF-8 keeps the order of code points, hence so does this. Strings
of one column may hold NUL only if none is the beginning of another: `a` and `a` + NUL are one here.
Texts from outside hold none (`knowledge.checking`), and numbers packed as bytes are equally long.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from knowledge.storage import Array

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
_WIDTH = 8
# _MASKS[n] keeps the first n bytes of a word.
_MASKS: Words = np.array([2**64 - 2 ** (64 - 8 * n) for n in range(9)], np.uint64)
_LONG = 64 * _WIDTH  # from here on strings are hashed and compared one by one
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))


@dataclass(frozen=True)
class Strings:
    """String i is `data[starts[i] : starts[i] + lengths[i]]`; `data` ends in 8 spare bytes."""

    data: npt.NDArray[np.uint8]
    starts: Integers
    lengths: Integers

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> "Strings":
        """A column of these strings."""
        return cls.packed(b"".join(texts), np.fromiter(map(len, texts), np.int64, len(texts)))

    @classmethod
    def packed(cls, data: bytes, lengths: Array) -> "Strings":
        """Strings that lie end to end in `data`."""
        wide = lengths.astype(np.int64)
        padded = np.frombuffer(data + bytes(_WIDTH), np.uint8)
        return cls(padded, np.cumsum(wide) - wide, wide)

    @classmethod
    def joined(cls, parts: Sequence["Strings"]) -> "Strings":
        """The strings of all parts, in order. A buffer that parts share is copied once."""
        buffers = {id(part.data): part.data for part in parts}
        lengths = np.concatenate([part.lengths for part in parts])
        if len(buffers) == 1:
            return cls(parts[0].data, np.concatenate([part.starts for part in parts]), lengths)
        sizes = [len(buffer) for buffer in buffers.values()]
        first = dict(zip(buffers, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        starts = np.concatenate([part.starts + first[id(part.data)] for part in parts])
        return cls(np.concatenate(list(buffers.values())), starts, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes:
        start = int(self.starts[row])
        return self.data[start : start + int(self.lengths[row])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        if not len(self):
            return iter(())
        ends = self.starts + self.lengths
        first = int(self.starts.min())
        whole = self.data[first : int(ends.max())].tobytes()
        places = map(slice, (self.starts - first).tolist(), (ends - first).tolist())
        return map(whole.__getitem__, places)

    def take(self, rows: Array | slice) -> "Strings":
        """Some rows, in the order given; no byte is copied."""
        return Strings(self.data, self.starts[rows], self.lengths[rows])

    def stretch(self, first: int, end: int) -> "Strings":
        """The rows first ... end - 1 of a compact column, with only their part of the buffer."""
        if first >= end:
            return self.take(slice(0, 0))
        start = int(self.starts[first])
        stop = int(self.starts[end - 1] + self.lengths[end - 1]) + _WIDTH
        return Strings(
            self.data[start:stop], self.starts[first:end] - start, self.lengths[first:end]
        )

    def tobytes(self) -> bytes:
        """All strings end to end."""
        if self._is_compact():
            return self.data[: len(self.data) - _WIDTH].tobytes()
        total = int(self.lengths.sum())
        copy = np.empty(total + _WIDTH, np.uint8)
        target: Words = np.ndarray((total + 1,), "<u8", copy, 0, (1,))
        places = np.cumsum(self.lengths) - self.lengths
        # Eight bytes at a time. A short string spills over what follows, which is written later.
        rows = np.flatnonzero(self.lengths < _WIDTH)
        target[places[rows]] = self._view[self.starts[rows]]
        rows = np.flatnonzero(self.lengths >= _WIDTH)
        last = self.lengths[rows] - _WIDTH
        target[places[rows] + last] = self._view[self.starts[rows] + last]
        done = 0
        while len(rows) and done < _LONG:
            target[places[rows] + done] = self._view[self.starts[rows] + done]
            done += _WIDTH
            rows = rows[self.lengths[rows] >= done + _WIDTH]
        for row in rows.tolist():
            text = np.frombuffer(self[row], np.uint8)
            copy[places[row] : places[row] + len(text)] = text
        return copy[:total].tobytes()

    def compact(self) -> "Strings":
        """The same strings end to end in a buffer of their own."""
        return self if self._is_compact() else Strings.packed(self.tobytes(), self.lengths)

    def _is_compact(self) -> bool:
        ends = np.cumsum(self.lengths)
        used = int(ends[-1]) if len(self) else 0
        fits = used + _WIDTH == len(self.data)
        return fits and bool((self.starts == ends - self.lengths).all())

    def replaced(self, rows: Array, texts: Sequence[bytes]) -> "Strings":
        """The same column with other strings at `rows`."""
        if not len(rows):
            return self
        pool = Strings.joined([self, Strings.of(texts)])
        places = np.arange(len(self))
        places[rows] = len(self) + np.arange(len(texts))
        return pool.take(places)

    def word(self, number: int, rows: Array | slice = slice(None)) -> Words:
        """Bytes 8 * number ... of the rows as big-endian numbers; zeros stand past the end."""
        starts = np.minimum(self.starts[rows] + _WIDTH * number, len(self._view) - 1)
        left = np.clip(self.lengths[rows] - _WIDTH * number, 0, _WIDTH)
        return self._view[starts].byteswap() & _MASKS[left]

    def equal_to(self, text: bytes) -> Integers:
        """The rows that hold `text`."""
        rows = np.flatnonzero(self.lengths == len(text))
        wanted = Strings.of([text])
        for number in range(-(-len(text) // _WIDTH)):
            rows = rows[self.word(number, rows) == wanted.word(number)[0]]
        return rows

    @cached_property
    def _view(self) -> Words:
        """The eight bytes at every position of the buffer."""
        return np.ndarray((len(self.data) - _WIDTH + 1,), "<u8", self.data, 0, (1,))

    def hashes(self) -> Words:
        """A 64-bit number for each string."""
        found = _mixed(self.lengths.astype(np.uint64) ^ self.word(0))
        rows, number = np.flatnonzero(self.lengths > _WIDTH), 1
        while len(rows) and number * _WIDTH < _LONG:
            found[rows] = _mixed(found[rows] ^ self.word(number, rows))
            number += 1
            rows = rows[self.lengths[rows] > _WIDTH * number]
        for row in rows.tolist():
            found[row] = int.from_bytes(blake2b(self[row], digest_size=8).digest(), "little")
        return found

    def find(self, text: bytes) -> int:
        """The row of `text` in a sorted column, or -1."""
        row = count_below(self, text)
        return row if row < len(self) and self[row] == text else -1


def count_below(strings: Strings, bound: bytes, *, inclusive: bool = False) -> int:
    """How many strings of a sorted column are less than `bound`, or not more than it."""
    low, high = 0, len(strings)
    while low < high:
        middle = (low + high) // 2
        text = strings[middle]
        if text < bound or (inclusive and text == bound):
            low = middle + 1
        else:
            high = middle
    return low


def distinct(strings: Strings) -> tuple[Strings, Integers]:
    """The different strings, sorted, and for every row the place of its string among them.

    Equal hashes count as equal strings: for a block of a million different strings the chance
    of a mistake is 3e-8.
    """
    hashes = strings.hashes()
    order = np.argsort(hashes)
    new = _changes(hashes[order])
    unsorted = strings.take(order[new])
    by_text, _ = sort_strings(unsorted)
    places = np.empty(len(by_text), np.int64)
    places[by_text] = np.arange(len(by_text))
    codes = np.empty(len(strings), np.int64)
    codes[order] = places[np.cumsum(new) - 1]
    return unsorted.take(by_text), codes


def sort_strings(strings: Strings) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """The order that sorts, and for every place in it whether the string differs from the last.

    Word by word: after the first, only the strings that are still tied are looked at.
    """
    words = strings.word(0)
    order = np.argsort(words).astype(np.int64)
    new = _changes(words[order])
    number = 1
    while len(tied := _tied(strings.lengths[order], new, _WIDTH * number)):
        if number * _WIDTH >= _LONG:
            _sort_rest(strings, order, new, tied)
            break
        rows, group = order[tied], np.cumsum(new)[tied]
        words = strings.word(number, rows)
        inner = np.lexsort((words, group))
        order[tied] = rows[inner]
        new[tied] = _changes(group) | _changes(words[inner])
        number += 1
    return order, new


def _tied(lengths: Integers, new: npt.NDArray[np.bool_], seen: int) -> Integers:
    """The places of groups of equals in which some string goes on after `seen` bytes."""
    first = np.flatnonzero(new)
    if len(first) == len(new):
        return first[:0]
    sizes = np.diff(first, append=len(new))
    active = (sizes > 1) & (np.maximum.reduceat(lengths, first) > seen)
    return np.flatnonzero(np.repeat(active, sizes))


def _sort_rest(strings: Strings, order: Integers, new: Array, tied: Integers) -> None:
    """Long strings with long equal beginnings, one by one; `order` and `new` are changed."""
    groups = np.cumsum(new)[tied].tolist()
    rows = order[tied].tolist()
    ranked = sorted(zip(groups, (strings[row] for row in rows), rows, strict=True))
    order[tied] = [row for _, _, row in ranked]
    pairs = [(group, text) for group, text, _ in ranked]
    new[tied] = [True, *(a != b for a, b in pairwise(pairs))]


def _changes(values: Array) -> npt.NDArray[np.bool_]:
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return new


def _mixed(words: Words) -> Words:
    words = words * _MIX[0]
    words ^= words >> np.uint64(32)
    words *= _MIX[1]
    words ^= words >> np.uint64(29)
    return words


def as_texts(texts: Iterable[str]) -> Strings:
    """A column of texts, as UTF-8."""
    return Strings.of([text.encode("utf-8") for text in texts])
