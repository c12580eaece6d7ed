"""Tables with pictures in base64: EasyNLP's three columns, and MUGE's pair of files."""

import base64
import binascii
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rapid_diffusion.datasets.rows import (
    Problem,
    Row,
    RowError,
    check_caption,
    decode_text,
    lines_of,
    parse_object,
    printable,
)
from rapid_diffusion.datasets.seen import Seen
from rapid_diffusion.errors import InvalidRequestError

COLUMNS = ("idx", "text", "imgbase64")
_HEADERS = {
    "idx": ("idx", "id", "index", "image_id", "img_id"),
    "text": ("text", "caption", "texts"),
    "imgbase64": ("imgbase64", "img_base64", "image_base64", "base64", "image", "img"),
}
_PICTURES = re.compile(r"(?<![a-z])(images|image|imgs|img)(?![a-z])")
_TEXTS = ("texts", "text")


def read_tsv(path: Path) -> Iterator[Row | Problem]:
    """Lines of `idx TAB text TAB imgbase64`; a header may give the columns another order."""
    columns: Sequence[str] = COLUMNS
    with path.open("rb") as file, Seen() as seen:
        for number, line in lines_of(file):
            if number == 1 and not isinstance(line, RowError) and (found := _header(line)):
                columns = found
                continue
            where = f"{path.name}:{number}"
            try:
                name, text, picture = _three(line, columns)
                where = f"{where} {printable(name)}"
                _check_new(seen, name, where)
                yield Row(decode_base64(picture), (check_caption(text),), {"id": name}, where)
            except RowError as error:
                yield Problem(where, str(error))


def _header(line: bytes) -> list[str] | None:
    """The columns in a header's order, or None if this is a row."""
    words = [word.strip().lower() for word in line.decode("utf-8-sig", "replace").split("\t")]
    known = {word: name for name, words_ in _HEADERS.items() for word in words_}
    found = [known.get(word, "") for word in words]
    return found if set(found) >= set(COLUMNS) else None


def _three(line: bytes | RowError, columns: Sequence[str]) -> tuple[str, str, str]:
    fields = _fields(line)
    if len(fields) != len(columns):
        raise RowError(f"{len(fields)} columns; {len(columns)} are wanted: {', '.join(columns)}")
    row = dict(zip(columns, fields, strict=True))
    return row["idx"].strip(), row["text"], row["imgbase64"]


def _fields(line: bytes | RowError) -> list[str]:
    if isinstance(line, RowError):
        raise line
    return decode_text(line).split("\t")


def _check_new(seen: Seen, name: str, where: str) -> None:
    if not name:
        raise RowError("no id")
    if earlier := seen.first(name, where):
        raise RowError(f"the id was given before, in {earlier}")


def decode_base64(text: str) -> bytes:
    """Plain or urlsafe base64, with or without padding or a `data:` prefix."""
    text = text.strip()
    if text.startswith("data:"):
        text = text.partition(",")[2]
    text = text.translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    if not text:
        raise RowError("no picture; the base64 is empty")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"wrong base64 ({error})") from error


def find_pair(path: Path) -> tuple[Path, Path] | None:
    """(file of pictures, file of sentences) for either of them; None if the other is not there.

    `train_imgs.tsv` belongs to `train_texts.jsonl`, `T2I.img.tsv` to `T2I.text.tsv`.
    """
    if match := _PICTURES.search(path.name):
        found = _siblings(path, match, _TEXTS, (".jsonl", ".tsv", ".txt"))
        return (path, found) if found else None
    if match := re.search(r"(?<![a-z])(texts|text)(?![a-z])", path.name):
        found = _siblings(path, match, ("images", "image", "imgs", "img"), (".tsv",))
        return (found, path) if found else None
    return None


def _siblings(
    path: Path, match: re.Match[str], words: Sequence[str], suffixes: Sequence[str]
) -> Path | None:
    start, end = match.span()
    names = [path.name[:start] + word + path.name[end:] for word in words]
    candidates = [path.with_name(name).with_suffix(suffix) for name in names for suffix in suffixes]
    return next((file for file in candidates if file.is_file() and file != path), None)


def read_pair(path: Path) -> Iterator[Row | Problem]:
    """`image_id TAB base64` with `image_id TAB text`, or MUGE's JSON lines of sentences.

    `path` is either file. A picture may have several sentences, a sentence several pictures.
    """
    pair = find_pair(path)
    if pair is None:
        raise InvalidRequestError(
            "path", f"{path}: its partner is missing; like train_imgs.tsv and train_texts.jsonl"
        )
    with closing(sqlite3.connect("", isolation_level=None)) as database, Seen() as seen:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("CREATE TABLE said (id BLOB, text BLOB, place TEXT, used INTEGER)")
        yield from _store_sentences(database, pair[1])
        database.execute("CREATE INDEX by_id ON said (id)")
        yield from _pictures(database, pair[0], seen)
        left = database.execute("SELECT id, place FROM said WHERE used = 0")
        for name, place in left:
            yield Problem(f"{place} {printable(name.decode())}", f"no picture in {pair[0].name}")


def _store_sentences(database: sqlite3.Connection, path: Path) -> Iterator[Problem]:
    with path.open("rb") as file:
        for number, line in lines_of(file):
            where = f"{path.name}:{number}"
            if number == 1 and not isinstance(line, RowError) and _is_pair_header(line):
                continue
            try:
                text, names = _sentence(line, path.suffix == ".jsonl")
                rows = [(name.encode(), text.encode(), where) for name in names]
            except (RowError, UnicodeEncodeError) as error:
                yield Problem(where, str(error))
                continue
            database.executemany("INSERT INTO said VALUES (?, ?, ?, 0)", rows)


def _sentence(line: bytes | RowError, is_json: bool) -> tuple[str, list[str]]:
    """A sentence and the ids of its pictures."""
    if isinstance(line, RowError):
        raise line
    if not is_json:
        fields = _fields(line)
        if len(fields) != 2:
            raise RowError(f"{len(fields)} columns; 2 are wanted: image_id, text")
        return check_caption(fields[1]), [fields[0].strip()]
    record: dict[str, Any] = parse_object(line)
    names = record.get("image_ids", record.get("image_id"))
    names = names if isinstance(names, list) else [names]
    if not names or not all(isinstance(name, str | int) for name in names):
        raise RowError(f"`image_ids` is {names!r:.60}; a list of ids is wanted")
    if "text" not in record:
        raise RowError("no caption; the key `text` is wanted")
    return check_caption(record["text"]), [str(name) for name in names]


def _is_pair_header(line: bytes) -> bool:
    first = line.decode("utf-8-sig", "replace").split("\t")[0].strip().lower()
    return first in _HEADERS["idx"]


def _pictures(database: sqlite3.Connection, path: Path, seen: Seen) -> Iterator[Row | Problem]:
    with path.open("rb") as file:
        for number, line in lines_of(file):
            if number == 1 and not isinstance(line, RowError) and _is_pair_header(line):
                continue
            where = f"{path.name}:{number}"
            try:
                fields = _fields(line)
                name = fields[0].strip()
                where = f"{where} {printable(name)}"
                if len(fields) != 2:
                    raise RowError(f"{len(fields)} columns; 2 are wanted: image_id, base64")
                _check_new(seen, name, where)
                captions = _captions(database, name)
                yield Row(decode_base64(fields[1]), captions, {"id": name}, where)
            except RowError as error:
                yield Problem(where, str(error))


def _captions(database: sqlite3.Connection, name: str) -> tuple[str, ...]:
    key = (name.encode(),)
    found = database.execute("SELECT text FROM said WHERE id = ? ORDER BY rowid", key).fetchall()
    if not found:
        raise RowError("no caption: no sentence names this picture")
    database.execute("UPDATE said SET used = 1 WHERE id = ?", key)
    return tuple(text.decode() for (text,) in found)
