"""Writing a file so that a full disk or a kill leaves either the old file or the new one."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rapid_diffusion.errors import OutputError

TEMPORARY_PREFIX = ".rapid-"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; after the block it takes the place of `path`.

    The temporary file is flushed to the disk before it is renamed. If anything fails in
    between, it is removed and what was at `path` stays as it was.

    Raises:
        OutputError: any `OSError` on the way (no space, no directory, no permission).
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp")
    try:
        # Not `tempfile`: its mode 0600 would stay on the finished file; this one obeys umask.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        yield temporary
        # A writer such as safetensors puts a file of its own, of mode 0600, at this name.
        temporary.chmod(mode)
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error}). Nothing was changed there: "
            "check that its directory exists, that you may write to it, and that the disk has room."
        ) from error
    finally:
        _remove(temporary)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; raises `OutputError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing_folder(path: str | Path, mark: str) -> Iterator[Path]:
    """Give an empty folder beside `path`; after the block it takes the place of `path`.

    `mark` is the file that tells a folder of ours: one that has it, or an empty one, is replaced,
    anything else is not. If the block fails, what was at `path` stays as it was.

    Raises:
        OutputError: any `OSError` on the way, or something else is at `path`.
    """
    folder = Path(path).absolute()
    check_replaceable(folder, mark)
    temporary = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        _take_place(temporary, folder)
    except OSError as error:
        raise OutputError(f"{folder}: could not be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, mark: str) -> None:
    """Our own may be replaced; a folder of something else would be lost."""
    if folder.is_dir() and ((folder / mark).is_file() or not any(folder.iterdir())):
        return
    if folder.exists() or not folder.name:
        raise OutputError(f"{folder}: is there and has no {mark}; give another name")


def _take_place(temporary: Path, folder: Path) -> None:
    """Two renames: if the second fails, or we are killed between them, the old one comes back."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(temporary: Path) -> None:
    # The path may not even be a possible one (a missing directory, a file in its place).
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return


def make_writable(folder: Path, option: str) -> None:
    """Make a folder that `option` of a command names, before minutes of work go into it.

    Raises `OutputError` where that cannot be, or one may not write there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror}). Give another folder with {option}"
        ) from error
    check_writable(folder, option)


def check_writable(folder: Path, option: str) -> None:
    """Raises `OutputError` where there is no such folder, or one may not write there."""
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder. Make it, or give another one with {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: you may not write there. Give another folder with {option}")
