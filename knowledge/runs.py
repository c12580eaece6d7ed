"""External sort: sorted runs on disk, merged block by block with a bounded amount of memory.

A run is three raw files, `NAME.len` (u4), `NAME.txt` and `NAME.row`: sorted strings, and beside
each a row of a fixed type.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knowledge.storage import Array
from knowledge.strings import Integers, Strings, count_below, sort_strings

_MOST_ROWS = 1_000_000  # of all runs together, in memory at a time
_MOST_BYTES = 64_000_000


@dataclass(frozen=True)
class Records:
    """Strings, and beside each a row of `rows`."""

    keys: Strings
    rows: Array

    def take(self, rows: Array | slice) -> "Records":
        """Some records, in the order given."""
        return Records(self.keys.take(rows), self.rows[rows])

    @classmethod
    def joined(cls, parts: Sequence["Records"]) -> "Records":
        """The records of all parts, in order."""
        keys = Strings.joined([part.keys for part in parts])
        return cls(keys, np.concatenate([part.rows for part in parts]))


@dataclass(frozen=True)
class Merged:
    """A stretch of the merged order. new: the string differs from the last of this stretch;
    run: the number of the run that a record came from.
    """

    records: Records
    new: npt.NDArray[np.bool_]
    run: Integers


def write_run(path: Path, records: Records) -> None:
    """Write sorted records as the run `path`."""
    records.keys.lengths.astype(np.uint32).tofile(path.with_suffix(".len"))
    path.with_suffix(".txt").write_bytes(records.keys.tobytes())
    np.ascontiguousarray(records.rows).tofile(path.with_suffix(".row"))


def remove_run(path: Path) -> None:
    """Delete the files of a run."""
    for suffix in (".len", ".txt", ".row"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def merge_runs(paths: Sequence[Path], dtype: npt.DTypeLike) -> Iterator[Merged]:
    """The records of all runs in order. Equal strings of different runs come in one stretch.

    Equal strings of ONE run may be parted over two stretches: see `whole_groups`.
    """
    share = max(len(paths), 1)
    limits = max(_MOST_ROWS // share, 256), max(_MOST_BYTES // share, 4096)
    readers = [_Reader(path, np.dtype(dtype), limits) for path in paths]
    while live := [(number, reader) for number, reader in enumerate(readers) if reader.fill()]:
        bounds = [reader.last() for _, reader in live if not reader.at_end]
        bound = min(bounds) if bounds else None
        parts = [(number, reader.pop(bound)) for number, reader in live]
        parts = [(number, part) for number, part in parts if len(part.keys)]
        together = Records.joined([part for _, part in parts])
        order, new = sort_strings(together.keys)
        run = np.repeat([number for number, _ in parts], [len(part.keys) for _, part in parts])
        # Within a group of equals the runs stand in order: what follows must not depend on luck.
        group = np.cumsum(new)
        order = order[np.lexsort((order, group))] if not new.all() else order
        yield Merged(together.take(order), new, run[order])


def whole_groups(stretches: Iterator[Merged]) -> Iterator[tuple[Records, npt.NDArray[np.bool_]]]:
    """Stretches of records in which no group of equal strings is parted."""
    held: Records | None = None
    for stretch in stretches:
        records, new = stretch.records, stretch.new
        if held is not None:
            new = np.concatenate([_starts_of_one(len(held.keys)), new])
            new[len(held.keys)] = held.keys[0] != records.keys[0]
            records = Records.joined([held, records])
        last = int(np.flatnonzero(new)[-1])
        if last:
            yield records.take(slice(0, last)), new[:last]
        kept = records.take(slice(last, None))
        held = Records(kept.keys.compact(), kept.rows)
    if held is not None:
        yield held, _starts_of_one(len(held.keys))


def _starts_of_one(size: int) -> npt.NDArray[np.bool_]:
    return np.arange(size) == 0


class _Reader:
    """One run, read a block at a time."""

    def __init__(self, path: Path, dtype: np.dtype[Any], limits: tuple[int, int]) -> None:
        self._path, self._dtype = path, dtype
        self._most_rows, self._most_bytes = limits
        self._total = path.with_suffix(".len").stat().st_size // 4
        self._row = self._byte = 0
        self._block: Records | None = None

    @property
    def at_end(self) -> bool:
        """Whether nothing is left on disk."""
        return self._row == self._total

    def fill(self) -> bool:
        """Have at least one record in memory, if there is one."""
        if self._block is None and not self.at_end:
            self._block = self._read()
        return self._block is not None

    def last(self) -> bytes:
        """The last string in memory."""
        assert self._block is not None
        return self._block.keys[len(self._block.keys) - 1]

    def pop(self, bound: bytes | None) -> Records:
        """Take out the records in memory that are not above `bound`."""
        assert self._block is not None
        block, self._block = self._block, None
        if bound is None:
            return block
        total = len(block.keys)
        count = count_below(block.keys, bound, inclusive=True)
        if count < total:
            self._block = Records(block.keys.stretch(count, total), block.rows[count:])
        return Records(block.keys.stretch(0, count), block.rows[:count])

    def _read(self) -> Records:
        lengths = self._raw(".len", np.dtype(np.uint32), self._row, self._most_rows)
        count = max(1, int(np.searchsorted(np.cumsum(lengths), self._most_bytes)))
        lengths = lengths[:count]
        size = int(lengths.sum())
        text = self._raw(".txt", np.dtype(np.uint8), self._byte, size)
        rows = self._raw(".row", self._dtype, self._row, len(lengths))
        self._row += len(lengths)
        self._byte += size
        return Records(Strings.packed(text.tobytes(), lengths), rows)

    def _raw(self, suffix: str, dtype: np.dtype[Any], first: int, count: int) -> Array:
        path = self._path.with_suffix(suffix)
        return np.fromfile(path, dtype, count, offset=first * dtype.itemsize)
