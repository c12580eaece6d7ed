"""Writing a file so that a full disk or a kill leaves either the old file or the new one."""

import os
import secrets
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


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(temporary: Path) -> None:
    # The path may not even be a possible one (a missing directory, a file in its place).
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
