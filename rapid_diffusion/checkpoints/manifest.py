"""`manifest.json` of a model folder: size and checksum of every file, to tell rot from a bug."""

import hashlib
from pathlib import Path
from typing import Any

from rapid_diffusion.checkpoints.folder import read_json, write_json
from rapid_diffusion.errors import CheckpointError

MANIFEST = "manifest.json"


def write_manifest(folder: str | Path) -> None:
    """List all files below `folder` but hidden ones; raises `OutputError` or `CheckpointError`."""
    folder = Path(folder)
    files = {name: _entry(folder / name) for name in _names(folder)}
    write_json(folder / MANIFEST, {"format": 1, "files": files})


def check_manifest(folder: str | Path) -> bool:
    """True when every file is as it was written; False when the folder has no manifest.

    Raises `CheckpointError` naming the first file that is missing, changed or not listed.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return False
    listed = read_json(folder / MANIFEST).get("files")
    if not isinstance(listed, dict):
        raise CheckpointError(folder / MANIFEST, "lists no files; fetch the model again")
    there = set(_names(folder))
    for name in sorted(there | set(listed)):
        if name not in there:
            raise CheckpointError(folder / name, "is missing; fetch the model again")
        if name not in listed:
            raise CheckpointError(folder / name, f"is not in {MANIFEST}; remove it")
        if _entry(folder / name) != listed[name]:
            raise CheckpointError(
                folder / name, f"differs from its checksum in {MANIFEST}; fetch the model again"
            )
    return True


def _names(folder: Path) -> list[str]:
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    shown = (file for file in files if not any(part.startswith(".") for part in file.parts))
    return sorted(file.as_posix() for file in shown if file.as_posix() != MANIFEST)


def _entry(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": file.stat().st_size, "sha256": digest}
    except OSError as error:
        raise CheckpointError(file, f"cannot be read ({error.strerror})") from error
