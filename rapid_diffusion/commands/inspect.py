"""`rapid-diffusion inspect`: what a picture says about itself, or what a model folder holds."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from rapid_diffusion.errors import CheckpointError

MEGABYTE = 1_000_000


def inspect(
    subject: Annotated[
        str, typer.Argument(metavar="FILE|MODEL", help="A picture, a model's name or its folder.")
    ],
) -> None:
    """Print the labels of a picture, or the parts of a model, as JSON."""
    from rapid_diffusion.images.label import read_labels

    facts = read_labels(subject) if Path(subject).is_file() else model_facts(subject)
    typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))


def model_facts(name_or_path: str) -> dict[str, Any]:
    """Name, licence, digest and components of a model, read without building it.

    Raises `CheckpointError` where the folder or one of its files cannot be read.
    """
    from rapid_diffusion.checkpoints.folder import folder_digest, read_json
    from rapid_diffusion.components import INDEX, components_of, find_model

    folder = find_model(name_or_path)
    card, parts = read_json(folder / INDEX).get("card", {}), components_of(folder)
    components = [
        _component_facts(parts[name])
        for name in parts.names()
        if any(parts[name].glob("*.safetensors"))
    ]
    of_others = {"teacher": card.get("teacher"), "base": parts.base and str(parts.base)}
    return {
        "name": card.get("name", folder.name),
        "path": str(folder),
        "license": card.get("license"),
        "attribution": card.get("attribution"),
        "digest": folder_digest(folder),
        **{key: value for key, value in of_others.items() if value},
        "megabytes": _megabytes(folder),
        "parameters": sum(component["parameters"] for component in components),
        "components": components,
        "knowledge": _knowledge_facts(parts["knowledge"]),
    }


def _component_facts(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*.safetensors"))
    parameters = sum(count_parameters(file) for file in files)
    return {"name": folder.name, "parameters": parameters, "megabytes": _megabytes(folder)}


def count_parameters(file: Path) -> int:
    """How many numbers a safetensors file holds, without the scales of int8 storage.

    Raises `CheckpointError` for a file that is not whole.
    """
    from safetensors import SafetensorError, safe_open

    from rapid_diffusion.checkpoints.folder import SCALE_SUFFIX

    try:
        with safe_open(file, framework="numpy") as opened:
            names = [name for name in opened.keys() if not name.endswith(SCALE_SUFFIX)]  # noqa: SIM118
            return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(file, f"is not a whole safetensors file ({error})") from error


def _knowledge_facts(folder: Path) -> dict[str, Any] | None:
    from knowledge.graph import KnowledgeGraph

    if not folder.is_dir():
        return None
    graph = KnowledgeGraph.open(folder)
    return {"version": graph.version, "megabytes": _megabytes(folder), "stats": graph.stats}


def _megabytes(folder: Path) -> float:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return round(size / MEGABYTE, 3)
