"""A model on disk: the `diffusers` layout plus `knowledge/` and `super_resolution/`."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from rapid_diffusion.autoencoder import Autoencoder, load_autoencoder
from rapid_diffusion.checkpoints.folder import (
    load_strict,
    quantize_int8,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from rapid_diffusion.config import TextConfig
from rapid_diffusion.denoising.denoiser import Denoiser, load_denoiser
from rapid_diffusion.errors import CheckpointError, OutputError
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, build_text_encoder
from rapid_diffusion.text.tokens import TextTokenizer

INDEX = "model_index.json"
EMBEDDED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ModelCard:
    """What a model says of itself, and what a call without parameters does."""

    name: str
    license: str = ""
    attribution: str = ""
    shift: float = 1.0
    num_inference_steps: int = 20
    guidance_scale: float = 3.0
    scheduler: str = "dpmpp_2m"
    upscale: int = 4


@dataclass
class Model:
    """The components of a pipeline. `graph` and `upscaler` may be missing."""

    card: ModelCard
    tokenizer: TextTokenizer
    text_config: TextConfig
    text_encoder: KnowledgeTextEncoder
    denoiser: Denoiser
    autoencoder: Autoencoder
    upscaler: Upscaler | None
    graph: KnowledgeGraph | None


def find_model(name_or_path: str | Path) -> Path:
    """The folder of an embedded model's name or of a path.

    Raises `CheckpointError` naming the models there are.
    """
    for folder in (Path(name_or_path), EMBEDDED / name_or_path):
        if folder.is_dir():
            if not (folder / INDEX).is_file():
                raise CheckpointError(folder, f"has no {INDEX}; this is not a model folder")
            return folder
    embedded = sorted(path.name for path in EMBEDDED.glob("*") if path.is_dir())
    raise CheckpointError(
        name_or_path, f"no such model folder; give a path, or one of the embedded: {embedded}"
    )


def load_model(folder: Path, knowledge: KnowledgeGraph | str | Path | None = None) -> Model:
    """Read every component strictly; `knowledge` takes the place of the folder's own graph.

    Raises `CheckpointError` naming the file that is missing, damaged or does not fit.
    """
    index = read_json(folder / INDEX)
    card = _dataclass_from(ModelCard, index.get("card", {}), folder / INDEX)
    values = read_json(folder / "text_encoder" / "config.json")
    text_config = _dataclass_from(TextConfig, values, folder / "text_encoder" / "config.json")
    tokenizer = TextTokenizer.from_folder(folder / "tokenizer", text_config.max_length)
    if len(tokenizer) != text_config.vocabulary:
        raise CheckpointError(
            folder / "tokenizer",
            f"{len(tokenizer)} word pieces; the text encoder has {text_config.vocabulary}",
        )
    text_encoder = build_text_encoder(text_config)
    load_strict(text_encoder, read_weights(folder / "text_encoder"), folder / "text_encoder")
    upscaler_folder = folder / "super_resolution"
    return Model(
        card=card,
        tokenizer=tokenizer,
        text_config=text_config,
        text_encoder=text_encoder.eval(),
        denoiser=load_denoiser(folder / "unet").eval(),
        autoencoder=load_autoencoder(folder / "vae").eval(),
        upscaler=Upscaler.from_folder(upscaler_folder) if upscaler_folder.is_dir() else None,
        graph=_open_graph(folder / "knowledge", knowledge, text_config.entity_dimension),
    )


def save_model(model: Model, folder: Path, storage: str = "float16") -> None:
    """Write the folder that `load_model` reads, under a temporary name first.

    `storage` is float32, float16 or int8 (per output channel) and holds for the UNet, the text
    encoder and the upscaler. An older folder of that name is replaced. Raises `OutputError`.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write_components(model, temporary, storage)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder}: the model could not be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_components(model: Model, folder: Path, storage: str) -> None:
    write_json(
        folder / INDEX,
        {"_class_name": "RapidDiffusionPipeline", "card": asdict(model.card)},
    )
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir()
    write_json(folder / "text_encoder" / "config.json", asdict(model.text_config))
    weights = stored(model.text_encoder.state_dict(), storage)
    write_weights(weights, folder / "text_encoder" / "model.safetensors")
    model.tokenizer.save(folder / "tokenizer")
    model.denoiser.save(folder / "unet", stored(model.denoiser.network.state_dict(), storage))
    model.autoencoder.save(folder / "vae")
    if model.upscaler is not None:
        model.upscaler.save(folder / "super_resolution", "float16")
    if model.graph is not None:
        version = folder / "knowledge" / model.graph.path.name
        shutil.copytree(model.graph.path, version)
        (folder / "knowledge" / "CURRENT").write_text(f"{version.name}\n", encoding="utf-8")


def stored(weights: dict[str, Any], storage: str) -> dict[str, Any]:
    """Weights as they lie on disk: float32, float16, or int8 per output channel."""
    if storage == "float32":
        return weights
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in weights.items()
    }
    if storage == "float16":
        return half
    if storage != "int8":
        raise ValueError(f"storage {storage!r}; allowed: float32, float16, int8")
    return {
        **half,
        **{
            k: v
            for k, v in quantize_int8(weights).items()
            if k not in half or v.dtype != half[k].dtype and v.dim() > 1
        },
    }


def _dataclass_from(kind: Any, values: dict[str, Any], path: Path) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise CheckpointError(path, f"does not fit {kind.__name__} ({error})") from error


def _open_graph(
    folder: Path, knowledge: KnowledgeGraph | str | Path | None, dimension: int
) -> KnowledgeGraph | None:
    graph = knowledge
    if not isinstance(graph, KnowledgeGraph):
        if graph is None and not folder.is_dir():
            return None
        try:
            graph = KnowledgeGraph.open(graph or folder)
        except KnowledgeError as error:
            raise CheckpointError(knowledge or folder, str(error)) from error
    if graph.dimension not in (0, dimension):
        raise CheckpointError(
            graph.path,
            f"entity vectors of {graph.dimension} numbers; this text encoder takes {dimension}",
        )
    return graph
