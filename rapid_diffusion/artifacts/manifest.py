"""`manifest.json` of artifacts: what they are made for, what they take, every file's checksum.

Loading an artifact executes native code, so a file that is not listed, or is not as it was
written, is refused before anything is loaded.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rapid_diffusion.artifacts.identity import MadeFor, WeightPlace
from rapid_diffusion.checkpoints.folder import json_digest, read_json, write_json
from rapid_diffusion.checkpoints.manifest import check_files, list_files
from rapid_diffusion.errors import ArtifactError, CheckpointError

MANIFEST = "artifacts.json"
#: Before a weight's name in its module: the name of a constant.
PREFIX = "network."
FORMAT = 1
NEXT_STEP = "compile again with `rapid-diffusion compile`, or go without artifacts"


def write_artifact_manifest(
    folder: Path, made: Mapping[str, Any], parts: Mapping[str, Any]
) -> None:
    """List all files below `folder`; raises `OutputError`."""
    files = list_files(folder, _names(folder))
    told = {"format": FORMAT, "made_for": made, "parts": parts, "files": files}
    write_json(folder / MANIFEST, {**told, "checksum": f"sha256:{json_digest(told)}"})


def read_artifact_manifest(folder: Path, here: Callable[[WeightPlace], MadeFor]) -> dict[str, Any]:
    """The manifest of artifacts that are whole and made for what `here` gives.

    Raises `ArtifactError` naming the file that is missing, changed or not listed, or what the
    artifacts are made for and this machine or model is not.
    """
    told = _read(folder / MANIFEST)
    if told.get("format") != FORMAT:
        raise ArtifactError(
            folder / MANIFEST, f"format {told.get('format')!r}; {FORMAT} is read: {NEXT_STEP}"
        )
    stated = told.pop("checksum", None)
    if stated != f"sha256:{json_digest(told)}":
        raise ArtifactError(folder / MANIFEST, f"differs from its own checksum; {NEXT_STEP}")
    if differing := here(told["made_for"]["weights"]).differences(told["made_for"]):
        raise ArtifactError(folder, f"made for something else: {'; '.join(differing)}; {NEXT_STEP}")
    check_files(folder / MANIFEST, _names(folder), told["files"], NEXT_STEP, ArtifactError)
    return told | {"checksum": stated}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(path.parent, f"has no {MANIFEST}, so nothing is loaded; {NEXT_STEP}")
    try:
        return read_json(path)
    except CheckpointError as error:
        raise ArtifactError(path, f"cannot be read ({error}); {NEXT_STEP}") from error


def _names(folder: Path) -> list[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(file.as_posix() for file in files if file.as_posix() != MANIFEST)
