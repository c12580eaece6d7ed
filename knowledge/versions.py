"""Versions on disk: a directory with a manifest, a store of such directories, `CURRENT`.

A version is named after the digest of its manifest, which holds the digest of every file: equal
facts give an equal name, and a manifest that was edited no longer fits its own name.
"""

import fcntl
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
def new_version(store: Path, *, resume: str = "") -> Iterator[Path]:
    """Give an empty directory inside a temporary one in `store`.

    Both are removed at the end, whether the version was published or not. With `resume`, a name
    for what is built, the temporary one outlives a kill, and is found again under that name.

    Raises BuildError when writing fails (a full disk, a directory without permission) or when
    another process builds the same.
    """
    is_new = not store.exists()
    try:
        store.mkdir(parents=True, exist_ok=True)
        with _kept(store, resume) if resume else _passing(store) as temporary:
            building = temporary / "version"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            yield building
    except OSError as error:
        raise BuildError(f"cannot write a knowledge version in {store}: {error}") from error
    finally:
        if is_new and store.is_dir() and not any(store.iterdir()):
            store.rmdir()


@contextmanager
def _passing(store: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=store) as temporary:
        yield Path(temporary)


@contextmanager
def _kept(store: Path, name: str) -> Iterator[Path]:
    """A directory that only a process that dies leaves behind, locked while it is used."""
    folder = store / f".building-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(f"{folder}: another process builds the same; wait for it") from error
        try:
            yield folder
        except Exception:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


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
