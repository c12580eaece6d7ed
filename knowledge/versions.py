"""Versions on disk: a directory with a manifest, a store of such directories, `CURRENT`.

A version is named after the digest of its manifest, which holds the digest of every file: equal
facts give an equal name, and a manifest that was edited no longer fits its own name.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from knowledge.errors import (
    BuildError,
    DamagedVersionError,
    IncompatibleVersionError,
    InvalidInputError,
    MissingVersionError,
)
from knowledge.storage import replace_text

FORMAT = 1
MANIFEST = "manifest.json"
CURRENT = "CURRENT"
Verify = Literal["quick", "full"]
_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Manifest:
    """What a version says of itself: its name, its files {name: {bytes, sha256}}, its numbers."""

    version: str
    files: dict[str, dict[str, Any]]
    stats: dict[str, Any]


@contextmanager
def new_version(store: Path) -> Iterator[Path]:
    """Give an empty temporary directory in `store`; it is removed unless it was published.

    Raises BuildError when writing in it fails (a full disk, a directory without permission).
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=store) as temporary:
            building = Path(temporary) / "version"
            building.mkdir()
            yield building
    except OSError as error:
        raise BuildError(f"cannot write a knowledge version in {store}: {error}") from error


def publish(building: Path, store: Path, stats: Mapping[str, Any]) -> Path:
    """Write the manifest of the files in `building`, then rename it to its place in `store`."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(building.iterdir())
    }
    body = {"format": FORMAT, "files": files, "stats": dict(stats)}
    version = _digest(body)
    text = json.dumps({"version": version, **body}, ensure_ascii=False, indent=1)
    (building / MANIFEST).write_text(text + "\n", encoding="utf-8")
    target = store / version
    if target.exists():
        # The same facts were built before. The old files may be mapped: check, never replace.
        check_version(target, "full")
        return target
    building.rename(target)
    return target


def resolve(path: Path) -> Path:
    """The version directory meant by `path`: itself, or the one that its `CURRENT` names.

    Raises MissingVersionError, or IncompatibleVersionError for a `CURRENT` that is not a name.
    """
    if (path / MANIFEST).is_file():
        return path
    pointer = path / CURRENT
    if not pointer.is_file():
        raise MissingVersionError(path, f"holds neither {MANIFEST} nor {CURRENT}; build one first")
    version = pointer.read_text(encoding="utf-8", errors="replace").strip()
    return _version_directory(path, version, pointer)


def check_version(directory: Path, verify: Verify = "quick") -> Manifest:
    """Read the manifest and check the files against it: sizes ("quick") or bytes too ("full").

    Raises DamagedVersionError or IncompatibleVersionError, naming the file.
    """
    if verify not in ("quick", "full"):
        raise InvalidInputError(f'verify is {verify!r}; allowed are "quick" and "full"')
    manifest = _read_manifest(directory)
    for name, facts in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise DamagedVersionError(path, "is missing; build the version again")
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise DamagedVersionError(path, f"has {size} bytes, the manifest says {facts['bytes']}")
        if verify == "full" and _sha256(path) != facts["sha256"]:
            raise DamagedVersionError(path, "differs from its sha256 in the manifest")
    return manifest


def activate(store: Path, version: str) -> Path:
    """Check `version` in full, then let `CURRENT` name it, in one atomic step.

    A version that is refused leaves `CURRENT` as it was. Returns the version directory.
    """
    directory = _version_directory(store, version, store / version)
    check_version(directory, "full")
    try:
        replace_text(store / CURRENT, version + "\n")
    except OSError as error:
        raise BuildError(f"cannot write {store / CURRENT}: {error}") from error
    return directory


def copy_files(source: Path, manifest: Manifest, target: Path, *, without: set[str]) -> None:
    """Copy a version's files to `target`. Copies, not links: damage to one stays in one."""
    for name in manifest.files.keys() - without:
        shutil.copyfile(source / name, target / name)


def _version_directory(store: Path, version: str, named_by: Path) -> Path:
    if not _NAME.fullmatch(version):
        raise IncompatibleVersionError(named_by, f"{version!r} is not a version name (16 hex)")
    directory = store / version
    if not (directory / MANIFEST).is_file():
        raise MissingVersionError(directory, f"version {version} is not in {store}")
    found = _read_manifest(directory).version
    if found != version:
        raise IncompatibleVersionError(directory, f"is version {found}, wanted {version}")
    return directory


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        version, number = body.pop("version"), body["format"]
        manifest = Manifest(version, dict(body["files"]), dict(body["stats"]))
    except FileNotFoundError as error:
        raise MissingVersionError(directory, f"has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedVersionError(path, f"is not a manifest ({error!r})") from error
    if number != FORMAT:
        raise IncompatibleVersionError(path, f"has format {number!r}, this code reads {FORMAT}")
    if _digest(body) != version:
        raise DamagedVersionError(path, f"does not fit its own name {version!r}: it was changed")
    return manifest


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
