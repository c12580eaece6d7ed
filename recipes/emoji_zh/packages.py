"""The pinned npm packages that hold the pictures and the words, and how they are fetched."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

PACKAGES = {
    "twemoji": "@twemoji/svg@15.0.0",
    "noto": "@iconify-json/noto@1.2.9",
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fluent-color": "@iconify-json/fluent-emoji@1.2.7",
    "fluent-3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "emojione": "@iconify-json/emojione@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "emojibase": "emojibase-data@17.0.0",
    "annotations": "cldr-annotations-full@48.2.0",
    "annotations-derived": "cldr-annotations-derived-full@48.2.0",
    "cldr-core": "cldr-core@48.2.0",
}


def fetch(directory: Path) -> None:
    """Put every package under `directory/<name>/`, unpacked; those already there are kept.

    Needs the `npm` program. A package is unpacked under a temporary name and then renamed, so an
    interrupted run leaves nothing half there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, specification in PACKAGES.items():
        if not (directory / name / "package.json").exists():
            _fetch_one(directory, name, specification)


def _fetch_one(directory: Path, name: str, specification: str) -> None:
    printed = subprocess.run(
        ["npm", "pack", "--silent", specification],
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    archive = directory / printed.strip().splitlines()[-1]
    temporary = directory / f".{name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(temporary, filter="data")
    (temporary / "package").rename(directory / name)
    shutil.rmtree(temporary)
    archive.unlink()


def read_json(path: Path) -> Any:
    """The value stored in a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
