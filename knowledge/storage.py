"""The kinds of files a version is made of: arrays, string tables, one matrix. All are mapped.

A mapped file must never be overwritten or truncated (SIGBUS), so nothing here writes in place.
"""

import json
import os
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from knowledge.errors import DamagedVersionError

Array = npt.NDArray[Any]
_ALIGNMENT = 64
_MATRIX_ROWS = 1 << 17  # written at a time: a matrix may fill most of the memory
# numpy evaluates the header as a Python literal, so that damage there has many names.
_NPY_ERRORS = (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, TokenError)


def write_array(path: Path, array: Array) -> None:
    """Write one `.npy` file."""
    np.save(path, array, allow_pickle=False)


class ArrayWriter:
    """Writes a `.npy` file of one dimension piece by piece; its length is known at the end."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._count = 0
        self._write_header()

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *error: object) -> None:
        # numpy leaves room in the header for the digits of a length that grows.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def write(self, values: Array) -> None:
        """Append values."""
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self._count += len(values)

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count,),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


def map_array(path: Path, least: int = 0) -> Array:
    """Map one `.npy` file read-only. Raises DamagedVersionError if it holds no list of `least`."""
    try:
        # A plain view of the mapping: indexing a np.memmap itself is several times slower.
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except _NPY_ERRORS as error:
        raise DamagedVersionError(path, f"not a readable .npy file ({error})") from error
    if array.ndim != 1 or len(array) < least or not array.dtype.isnative:
        wanted = f"wanted ({least} or more,) in this machine's byte order"
        raise DamagedVersionError(path, f"has {array.dtype} {array.shape}, {wanted}")
    return array


class StringTable:
    """Read-only list of strings: UTF-8 bytes end to end, and the offsets between them."""

    def __init__(self, data: mmap | bytes, offsets: Array) -> None:
        # Pieces of a mapping, and items of a memory view, are read faster than those of an array.
        self._data = data
        self._offsets = offsets.data

    @classmethod
    def open(cls, data: Path, offsets: Path) -> "StringTable":
        """Map a table written by `string_files.StringsWriter`."""
        positions = map_array(offsets, 1)
        size = data.stat().st_size
        if int(positions[-1]) != size:
            raise DamagedVersionError(offsets, f"does not end at the {size} bytes of {data.name}")
        with data.open("rb") as file:  # an empty file cannot be mapped
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ) if size else b""
        return cls(mapped, positions)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self._bytes(index).decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def find(self, text: str) -> int:
        """Index of `text` in a table sorted by code point, or -1. Takes log2(n) look-ups."""
        # UTF-8 keeps the order of code points; a lone surrogate is simply not in the table.
        wanted = text.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self._bytes(low) == wanted else -1

    def _bytes(self, index: int) -> bytes:
        return self._data[self._offsets[index] : self._offsets[index + 1]]


def write_matrix(path: Path, matrix: Array) -> None:
    """Write one fp16 matrix (n, d) as a safetensors file with the tensor `vectors`.

    Raises OverflowError for a value that float16 does not hold.
    """
    size = 2 * matrix.shape[0] * matrix.shape[1]
    tensor = {"dtype": "F16", "shape": list(matrix.shape), "data_offsets": [0, size]}
    header = json.dumps({"vectors": tensor}).encode("ascii")
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for first in range(0, len(matrix), _MATRIX_ROWS):
            with np.errstate(over="ignore"):
                rows = matrix[first : first + _MATRIX_ROWS].astype(np.float16)
            if not np.isfinite(rows).all():
                raise OverflowError("not finite as float16")
            file.write(rows.tobytes())


def map_matrix(path: Path) -> Array:
    """Map the matrix of `write_matrix`, float16 (n, d), at its offset behind the header."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size) if size <= 100_000 else b"")
        tensor = header["vectors"]
        rows, columns = (int(extent) for extent in tensor["shape"])
        if tensor["dtype"] != "F16" or 8 + size + rows * columns * 2 != path.stat().st_size:
            raise ValueError(f"tensor {tensor} does not fill the file")
        return np.asarray(np.memmap(path, np.float16, "r", 8 + size, (rows, columns)))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DamagedVersionError(path, f"not a readable safetensors matrix ({error})") from error


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
