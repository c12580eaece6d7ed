"""Columns of strings as the files of a `StringTable`, written and read a block at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from knowledge.storage import ArrayWriter, map_array
from knowledge.strings import Strings

_BLOCK_BYTES = 16 << 20


class StringsWriter:
    """Writes the files of a `StringTable` piece by piece: bytes, and n + 1 positions."""

    def __init__(self, data: Path, offsets: Path) -> None:
        self._data = data.open("wb")
        self._offsets = ArrayWriter(offsets, np.uint64)
        self._offsets.write(np.zeros(1, np.uint64))
        self._position = self.count = 0

    def __enter__(self) -> "StringsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._data.close()
        self._offsets.__exit__()

    def write(self, strings: Strings) -> None:
        """Append strings."""
        ends = self._position + np.cumsum(strings.lengths)
        self._data.write(strings.tobytes())
        self._offsets.write(ends)
        self._position = int(ends[-1]) if len(ends) else self._position
        self.count += len(strings)


def read_table(data: Path, offsets: Path, rows: int = 200_000) -> Iterator[Strings]:
    """The strings of a `StringTable` in blocks of at most `rows`, and about 16 MB."""
    positions = map_array(offsets)
    first, total = 0, len(positions) - 1
    with data.open("rb") as file:
        while first < total:
            limit = positions[first] + np.uint64(_BLOCK_BYTES)
            end = int(np.searchsorted(positions[first : first + rows + 1], limit, "right")) - 1
            end = first + max(1, min(end, total - first))
            lengths = np.diff(positions[first : end + 1].astype(np.int64))
            yield Strings.packed(file.read(int(lengths.sum())), lengths)
            first = end
