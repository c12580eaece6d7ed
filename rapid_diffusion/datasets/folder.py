"""An image folder with `metadata.jsonl` (Hugging Face's ImageFolder), and a prepared folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rapid_diffusion.datasets.rows import (
    MOST_BYTES,
    PICTURE_SUFFIXES,
    Problem,
    Row,
    RowError,
    captions_of,
    check_name,
    facts_of,
    lines_of,
    parse_object,
    printable,
    suffix_of,
)
from rapid_diffusion.datasets.seen import Seen
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images.png import encode_png

TABLE = "metadata.jsonl"


def read_folder(path: Path) -> Iterator[Row | Problem]:
    """Rows of `FOLDER/metadata.jsonl`: `file_name`, `text` or `captions`, and further facts.

    A picture in the folder that no line names is a problem too.
    """
    folder = path if path.is_dir() else path.parent
    with Seen() as seen:
        with (folder / TABLE).open("rb") as file:
            for number, line in lines_of(file):
                yield _row(folder, number, line, seen)
        yield from _unnamed(folder, seen)


def _row(folder: Path, number: int, line: bytes | RowError, seen: Seen) -> Row | Problem:
    where = f"{TABLE}:{number}"
    try:
        if isinstance(line, RowError):
            raise line
        record = parse_object(line)
        where = f"{where} {printable(record.get('file_name', ''))}".strip()
        if "file_name" not in record:
            raise RowError("no `file_name`")
        name = check_name(record["file_name"])
        if earlier := seen.first(os.path.normpath(name), where):
            raise RowError(f"named before, in {earlier}; several sentences go into `captions`")
        captions, facts = captions_of(record), facts_of(record)
        return Row(read_picture(folder, name), captions, facts, where)
    except RowError as error:
        return Problem(where, str(error))


def read_picture(folder: Path, name: str) -> bytes:
    """The bytes of a file; `RowError` if it is missing, too large or not a plain file."""
    path = folder / name
    try:
        status = path.stat()
        # A pipe or a device would never end.
        if not stat.S_ISREG(status.st_mode):
            raise RowError("is no plain file")
        if status.st_size > MOST_BYTES:
            raise RowError(f"{status.st_size} bytes; {MOST_BYTES >> 20} MiB are allowed")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RowError("no such file") from error
    except (OSError, ValueError) as error:
        raise RowError(f"cannot be read ({error})") from error


def _unnamed(folder: Path, seen: Seen) -> Iterator[Problem]:
    for directory, _, names in os.walk(folder):
        for name in sorted(names):
            relative = os.path.relpath(os.path.join(directory, name), folder)
            if suffix_of(name) in PICTURE_SUFFIXES and relative not in seen:
                yield Problem(printable(relative), f"no caption: no line of {TABLE} names it")


def read_prepared(path: Path) -> Iterator[Row | Problem]:
    """The folder a training reads: the largest `pictures_*.npy` and `metadata.jsonl`."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("pictures_*.npy"), key=lambda file: file.stat().st_size)
    try:
        pictures = np.load(files[-1], mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise InvalidRequestError("path", f"{files[-1]}: is no whole array ({error})") from error
    count = 0
    with (folder / TABLE).open("rb") as file:
        for number, line in lines_of(file):
            where, count = f"{TABLE}:{number}", count + 1
            try:
                if isinstance(line, RowError):
                    raise line
                record = parse_object(line)
                if count > len(pictures):
                    raise RowError(f"no such picture; {files[-1].name} has {len(pictures)}")
                pixels = np.ascontiguousarray(pictures[count - 1])
                yield Row(encode_png(pixels), captions_of(record), facts_of(record), where)
            except RowError as error:
                yield Problem(where, str(error))
    for index in range(count, len(pictures)):
        yield Problem(f"{files[-1].name}[{index}]", f"no caption: {TABLE} has {count} lines")
