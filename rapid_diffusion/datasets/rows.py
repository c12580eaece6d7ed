"""One row of any format, what is wrong with a row that is none, and how its parts are read."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from rapid_diffusion.errors import RapidDiffusionError

#: The most one row may weigh, in bytes: what keeps memory bounded whatever a file says of itself.
MOST_BYTES = 64 * 2**20
CAPTION_KEYS = ("captions", "caption", "text")
PICTURE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Row:
    """A picture as the bytes of its file, one or more sentences, and whatever else was said of it.

    `facts` can be written as JSON; `where` names the row for a person: file and line, or key.
    """

    picture: bytes
    captions: tuple[str, ...]
    facts: dict[str, Any]
    where: str


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used: its name, and why."""

    where: str
    reason: str


class RowError(RapidDiffusionError):
    """Why a row cannot be used; the readers turn it into a `Problem`."""


def parse_object(line: bytes) -> dict[str, Any]:
    """A JSON object from one line; `RowError` for anything else."""
    text = decode_text(line)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"broken JSON ({error})") from error
    if not isinstance(record, dict):
        raise RowError(f"the JSON is a {type(record).__name__}; an object is wanted")
    return record


def decode_text(content: bytes) -> str:
    """Strict UTF-8, a byte order mark in front allowed."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = content[error.start]
        raise RowError(f"not UTF-8 (byte 0x{found:02x} at place {error.start})") from error


def captions_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The sentences under `captions`, `caption` or `text`: one, or a list of them."""
    key = next((key for key in CAPTION_KEYS if record.get(key) is not None), None)
    if key is None:
        raise RowError(f"no caption; one of the keys {', '.join(CAPTION_KEYS)} is wanted")
    value = record[key]
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if not texts:
        raise RowError("no caption; the list is empty")
    return tuple(check_caption(text) for text in texts)


def check_caption(text: object) -> str:
    """The sentence without white space around it; `RowError` if it is none."""
    if not isinstance(text, str):
        raise RowError(f"the caption is a {type(text).__name__}, {text!r:.60}; a text is wanted")
    if not text.strip():
        raise RowError("the caption is blank")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("the caption holds half a surrogate pair: not Unicode") from error
    return text.strip()


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says besides its sentences; `RowError` if it cannot be kept as JSON."""
    facts = {key: value for key, value in record.items() if key not in CAPTION_KEYS}
    try:
        json.dumps(facts, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise RowError(f"its facts cannot be kept as JSON ({error})") from error
    return facts


def check_name(name: object) -> str:
    """A relative name that stays in its folder; anything else is refused."""
    if not isinstance(name, str) or not name:
        raise RowError(f"the file name is {name!r:.60}; a text is wanted")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise RowError("the file name leaves its folder; a relative one without `..` is wanted")
    if "\0" in name:
        raise RowError("the file name holds a NUL")
    return name


def suffix_of(name: str) -> str:
    """`a/b.JPG` -> `jpg`."""
    return PurePosixPath(name).suffix.removeprefix(".").lower()


def printable(name: object) -> str:
    """A name as a report may show it: one line, no control characters, not too long."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}…"


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes | RowError]]:
    """Number (from 1) and content of each line that is not blank, without its end.

    A line longer than a row may be is passed over in pieces and given as an error.
    """
    number = 0
    while line := file.readline(MOST_BYTES):
        number += 1
        if len(line) == MOST_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MOST_BYTES)
            yield number, RowError(f"the line is longer than {MOST_BYTES >> 20} MiB")
        elif line.strip():
            yield number, line.rstrip(b"\r\n")


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key that puts `part-2` before `part-10`."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece]
