"""Parquet as the Hugging Face hub stores picture sets: one row group in memory at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapid_diffusion.datasets.folder import read_picture
from rapid_diffusion.datasets.rows import (
    CAPTION_KEYS,
    MOST_BYTES,
    Problem,
    Row,
    RowError,
    captions_of,
    check_name,
    facts_of,
    natural,
)
from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError

PICTURE = "image"
_ROWS_AT_ONCE = 16


def read_parquet(path: Path) -> Iterator[Row | Problem]:
    """Rows of a file, or of every `*.parquet` below a folder.

    Columns: `image` (bytes, or a struct of `bytes` and `path`), and `text`, `caption` or
    `captions`; the others are facts, but for those that are bytes themselves.
    """
    files = sorted(path.rglob("*.parquet"), key=lambda f: natural(str(f))) if path.is_dir() else ()
    for file in files or [path]:
        yield from _file(file)


def _file(path: Path) -> Iterator[Row | Problem]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            "reading Parquet needs pyarrow: pip install 'rapid-diffusion[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as opened:
            columns = _columns(opened.schema_arrow, path)
            yield from _groups(opened, columns, path)
    except (arrow.ArrowException, OSError) as error:
        yield Problem(path.name, f"cannot be read as Parquet ({error})")


def _columns(schema: Any, path: Path) -> list[str]:
    from pyarrow import types

    if PICTURE not in schema.names or not set(CAPTION_KEYS) & set(schema.names):
        raise InvalidRequestError(
            "path",
            f"{path}: its columns are {', '.join(schema.names)}; `{PICTURE}` and one of "
            f"{', '.join(CAPTION_KEYS)} are wanted",
        )
    kinds = (types.is_binary, types.is_large_binary)
    return [c.name for c in schema if c.name == PICTURE or not any(k(c.type) for k in kinds)]


def _groups(opened: Any, columns: list[str], path: Path) -> Iterator[Row | Problem]:
    import pyarrow as arrow

    start = 0
    for group in range(opened.num_row_groups):
        count = opened.metadata.row_group(group).num_rows
        done = 0
        try:
            for batch in opened.iter_batches(_ROWS_AT_ONCE, [group], columns):
                for record in batch.to_pylist():
                    yield _row(record, path, start + done)
                    done += 1
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            rows = f"rows {start + done} to {start + count - 1}"
            yield Problem(f"{path.name} {rows}", f"cannot be read ({error})")
        start += count


def _row(record: dict[str, Any], path: Path, number: int) -> Row | Problem:
    where = f"{path.name}[{number}]"
    try:
        picture = _picture(record.pop(PICTURE), path.parent)
        plain = {
            key: value if _is_json(value) else str(value)
            for key, value in record.items()
            if value is not None
        }
        return Row(picture, captions_of(plain), facts_of(plain), where)
    except RowError as error:
        return Problem(where, str(error))


def _is_json(value: object) -> bool:
    return isinstance(value, str | int | float | list | dict)


def _picture(value: object, folder: Path) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return read_picture(folder, check_name(value["path"]))
        value = value.get("bytes")
    if value is None:
        raise RowError("no picture")
    if not isinstance(value, bytes):
        raise RowError(f"`{PICTURE}` is a {type(value).__name__}; bytes are wanted")
    if len(value) > MOST_BYTES:
        raise RowError(f"{len(value)} bytes; {MOST_BYTES >> 20} MiB are allowed")
    return value
