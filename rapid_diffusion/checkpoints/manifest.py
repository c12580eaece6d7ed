"""`manifest.json` of a model folder: size and checksum of every file, to tell rot from a bug."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rapid_diffusion.checkpoints.folder import read_json, visible_files, write_json
from rapid_diffusion.errors import CheckpointError

MANIFEST = "manifest.json"


def write_manifest(folder: str | Path) -> None:
    """List all files below `folder` but hidden ones; raises `OutputError` or `CheckpointError`."""
    folder = Path(folder)
    files = list_files(folder, _names(folder))
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
    check_files(folder / MANIFEST, _names(folder), listed, "fetch the model again")
    return True


def list_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Size and checksum of the files of these names; `CheckpointError` for one it cannot read."""
    return {name: _entry(folder / name) for name in names}


def check_files(
    manifest: Path,
    names: Iterable[str],
    listed: Mapping[str, Any],
    next_step: str,
    error: type[CheckpointError] = CheckpointError,
) -> None:
    """Compare the files of these names, beside `manifest` and below, with what it lists.

    Raises `error` naming the first that is missing, changed or not listed.
    """
    there = set(names)
    for name in sorted(there | set(listed)):
        file = manifest.parent / name
        if name not in there:
            raise error(file, f"is missing; {next_step}")
        if name not in listed:
            raise error(file, f"is not in {manifest.name}; remove it")
        if _entry(file, error) != listed[name]:
            raise error(file, f"differs from its checksum in {manifest.name}; {next_step}")


def _names(folder: Path) -> list[str]:
    return sorted(name for name in visible_files(folder) if name != MANIFEST)


def _entry(file: Path, refusal: type[CheckpointError] = CheckpointError) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": file.stat().st_size, "sha256": digest}
    except OSError as error:
        raise refusal(file, f"cannot be read ({error.strerror})") from error
