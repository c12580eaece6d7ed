"""A .npy file that grows row by row: its length is written when it is known."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


class GrowingArray:
    """uint8 rows of one shape, appended to a file that `finish` makes a whole array."""

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._shape = row_shape
        self._count = 0
        self._file: BinaryIO = path.open("wb")
        self._header = self._write_header()

    def append(self, row: NDArray[np.uint8]) -> None:
        """Add one row; `OSError` when the disk is full."""
        if row.dtype != np.uint8 or row.shape != self._shape:
            raise ValueError(f"{row.dtype} {row.shape}; uint8 {self._shape} is wanted")
        self._file.write(row.tobytes())
        self._count += 1

    def finish(self) -> None:
        """Write how many rows there are, and close."""
        with self._file as file:
            file.seek(0)
            # NumPy leaves room in the header for the first number to grow.
            assert self._write_header() == self._header

    def close(self) -> None:
        """Give up: what was written is no array."""
        self._file.close()

    def _write_header(self) -> int:
        facts = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, facts)
        return self._file.tell()
