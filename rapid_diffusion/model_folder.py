"""A model on disk: the `diffusers` layout plus `knowledge/` and `super_resolution/`."""

import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from knowledge.store import warm_up
from knowledge.versions import CURRENT
from rapid_diffusion.artifacts.bare import BareNetwork
from rapid_diffusion.autoencoder import Autoencoder, load_autoencoder
from rapid_diffusion.checkpoints.folder import (
    SCALE_SUFFIX,
    Storage,
    load_strict,
    quantize_int8,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from rapid_diffusion.checkpoints.manifest import write_manifest
from rapid_diffusion.components import BASE, INDEX, base_entry, components_of
from rapid_diffusion.config import TextConfig
from rapid_diffusion.denoising.denoiser import WEIGHTS, Denoiser, load_denoiser
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.files import replacing_folder
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.clip import ContrastivePair, read_pair, write_pair
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, build_text_encoder
from rapid_diffusion.text.tokens import TextTokenizer

Record = TypeVar("Record")


@dataclass(frozen=True)
class ModelCard:
    """What a model says of itself, and what a call without parameters does.

    `teacher`: name and digest of the model that a student was distilled from. `styles`: words that
    name a style, apart by blanks; a sentence without one of them is told the first.
    """

    name: str
    license: str = ""
    attribution: str = ""
    shift: float = 1.0
    num_inference_steps: int = 20
    guidance_scale: float = 3.0
    scheduler: str = "dpmpp_2m"
    upscale: int = 4
    teacher: str = ""
    styles: str = ""


@dataclass
class Model:
    """The components of a pipeline. `graph`, `upscaler` and `pair` may be missing.

    The text tower of `pair` is `text_encoder` itself.
    """

    card: ModelCard
    tokenizer: TextTokenizer
    text_config: TextConfig
    text_encoder: KnowledgeTextEncoder
    denoiser: Denoiser
    autoencoder: Autoencoder
    upscaler: Upscaler | None
    graph: KnowledgeGraph | None
    pair: ContrastivePair | None = None


def load_model(
    folder: Path,
    knowledge: KnowledgeGraph | str | Path | bool | None = None,
    bare: Collection[str] = (),
) -> Model:
    """Read every component strictly; `knowledge` takes the place of the folder's own graph.

    `knowledge=False` goes without a graph. Of the components in `bare` there are the weights only,
    for code that was compiled ahead of time. Raises `CheckpointError` naming the file that is
    missing, damaged or does not fit.
    """
    card, parts = _read_card(folder), components_of(folder)
    text_folder, upscaler_folder = parts["text_encoder"], parts["super_resolution"]
    text_config = _record(
        TextConfig, read_json(text_folder / "config.json"), text_folder / "config.json"
    )
    tokenizer = TextTokenizer.from_folder(parts["tokenizer"], text_config.max_length)
    text_encoder = _read_text_encoder(text_config, text_folder, "text_encoder" in bare).eval()
    model = Model(
        card=card,
        tokenizer=tokenizer,
        text_config=text_config,
        text_encoder=text_encoder,
        denoiser=load_denoiser(parts["unet"], "unet" in bare, parts.unet_below).eval(),
        autoencoder=load_autoencoder(parts["vae"], "vae" in bare).eval(),
        upscaler=Upscaler.from_folder(upscaler_folder) if upscaler_folder.is_dir() else None,
        graph=_open_graph(parts["knowledge"], knowledge, text_config.entity_dimension),
        pair=read_pair(parts["image_tower"], text_encoder, "image_tower" in bare),
    )
    _check_fit(model, folder)
    return model


def save_model(model: Model, folder: Path, storage: Storage = "float16") -> None:
    """Write the folder that `load_model` reads, under a temporary name first.

    `storage` holds for the UNet and the two towers, "int8" being per output channel; the upscaler
    is stored in float16 unless all is float32. An older model of that name is replaced,
    anything else is not. Raises `OutputError`; what was there before is then as it was.
    """
    with replacing_folder(folder, INDEX) as temporary:
        _write_components(model, temporary, storage)
        write_manifest(temporary)


def save_shared(model: Model, base: Path, folder: Path, storage: Storage) -> None:
    """Write a folder of what `model` changes of the UNet in `base`; the rest stays there.

    `base` must be beside it or embedded when it is opened. Raises `OutputError`.
    """
    before = read_weights(base / "unet")
    now = model.denoiser.network.state_dict()
    changed = {name: now[name] for name in now if not torch.equal(now[name].cpu(), before[name])}
    with replacing_folder(folder, INDEX) as temporary:
        (temporary / "unet").mkdir()
        shutil.copyfile(base / "unet" / "config.json", temporary / "unet" / "config.json")
        write_weights(stored(changed, storage), temporary / "unet" / WEIGHTS)
        entry = {BASE: base_entry(base, read_json(base / INDEX)["card"]["name"])}
        _write_index(model.card, temporary, entry)
        write_manifest(temporary)


def _write_components(model: Model, folder: Path, storage: Storage) -> None:
    write_text(model, folder, storage)
    model.denoiser.save(folder / "unet", lambda weights: stored(weights, storage))
    # int8 is not for those that draw the pixels.
    of_pixels: Storage = "float32" if storage == "float32" else "float16"
    model.autoencoder.save(folder / "vae", lambda weights: stored(weights, of_pixels))
    if model.upscaler is not None:
        model.upscaler.save(folder / "super_resolution", of_pixels)
    if model.pair is not None:
        write_pair(model.pair, folder / "image_tower", lambda weights: stored(weights, storage))
    if model.graph is not None:
        version = folder / "knowledge" / model.graph.path.name
        shutil.copytree(model.graph.path, version)
        (folder / "knowledge" / "CURRENT").write_text(f"{version.name}\n", encoding="utf-8")
    _write_index(model.card, folder, {})


def write_text(model: Model, folder: Path, storage: Storage) -> None:
    """Write the text tower and the word pieces into a model folder; raises `OutputError`."""
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir(exist_ok=True)
    write_json(folder / "text_encoder" / "config.json", asdict(model.text_config))
    weights = stored(model.text_encoder.state_dict(), storage)
    write_weights(weights, folder / "text_encoder" / "model.safetensors")
    model.tokenizer.save(folder / "tokenizer")


def _write_index(card: ModelCard, folder: Path, base: dict[str, Any]) -> None:
    parts = sorted(path.name for path in folder.iterdir())
    index = {"_class_name": "RapidDiffusionPipeline", "components": parts}
    write_json(folder / INDEX, index | base | {"card": asdict(card)})


def stored(weights: dict[str, Tensor], storage: str) -> dict[str, Tensor]:
    """Weights as they lie on disk: float32, float16, or int8 per output channel.

    With int8, what is too small or too flat for it becomes float16; the scales stay float32.
    """
    if storage not in ("float32", "float16", "int8"):
        raise InvalidRequestError("storage", f"{storage!r}; allowed: float32, float16, int8")
    if storage == "float32":
        return dict(weights)
    narrow = quantize_int8(weights) if storage == "int8" else weights
    scales = {name + SCALE_SUFFIX for name, value in narrow.items() if value.dtype == torch.int8}
    return {
        name: value.half() if value.is_floating_point() and name not in scales else value
        for name, value in narrow.items()
    }


def _read_card(folder: Path) -> ModelCard:
    """What `model_index.json` says, once all components that it lists are there."""
    index = read_json(folder / INDEX)
    for name in index.get("components", []):
        if not (folder / str(name)).is_dir():
            raise CheckpointError(folder / name, "is missing; fetch the model again")
    if "card" not in index:
        raise CheckpointError(folder / INDEX, "has no `card`; models of other tools: not yet read")
    card = _record(ModelCard, index["card"], folder / INDEX)
    if card.scheduler not in SAMPLERS:
        raise CheckpointError(
            folder / INDEX, f"scheduler {card.scheduler!r}; known are {sorted(SAMPLERS)}"
        )
    return card


def _read_text_encoder(config: TextConfig, folder: Path, bare: bool) -> KnowledgeTextEncoder:
    weights = read_weights(folder)
    if bare:
        tower = {n.removeprefix("tower."): w for n, w in weights.items() if n.startswith("tower.")}
        network = BareNetwork(tower, {"hidden_size": config.width})
        encoder = KnowledgeTextEncoder(network, config.entity_dimension)
        load_strict(encoder, weights, folder)
        return encoder
    try:
        encoder = build_text_encoder(config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(folder / "config.json", f"gives no text tower ({error})") from error
    load_strict(encoder, weights, folder)
    return encoder


def _check_fit(model: Model, folder: Path) -> None:
    """Components of different models have sizes that do not meet."""
    text, denoiser = model.text_config, model.denoiser
    for name, theirs, ours in (
        ("tokenizer", len(model.tokenizer), text.vocabulary),
        ("unet", denoiser.text_width, text.width),
        ("vae", model.autoencoder.channels, denoiser.channels),
    ):
        if theirs != ours:
            raise CheckpointError(
                folder / name,
                f"is made for {theirs} where the others have {ours} "
                "(word pieces, text width or latent channels): the parts are of different models",
            )


def _record(kind: type[Record], values: object, path: Path) -> Record:
    """A dataclass of plain fields from JSON; every value must be of its field's type."""
    if not isinstance(values, dict):
        raise CheckpointError(path, f"{values!r:.80} where {kind.__name__} is wanted")
    for item in fields(kind):  # type: ignore[arg-type]
        value = values.get(item.name, item.default)
        wanted = (int, float) if item.type is float else item.type
        if item.name in values and (
            not isinstance(value, wanted) or isinstance(value, bool)  # type: ignore[arg-type]
        ):
            raise CheckpointError(path, f"{item.name} is {value!r}; {item.type} is wanted")
    try:
        return kind(**values)
    except TypeError as error:
        raise CheckpointError(path, f"does not fit {kind.__name__} ({error})") from error


def _open_graph(
    folder: Path, knowledge: KnowledgeGraph | str | Path | bool | None, dimension: int
) -> KnowledgeGraph | None:
    if knowledge is False:
        return None
    if not isinstance(knowledge, KnowledgeGraph):
        own = knowledge is None or knowledge is True
        if own and not folder.is_dir():
            return None
        path = folder if isinstance(knowledge, bool) or knowledge is None else knowledge
        try:
            knowledge = KnowledgeGraph.open(path)
        except KnowledgeError as error:
            raise CheckpointError(path, str(error)) from error
    return _check_dimension(knowledge, dimension)


def exchanged_graph(model: Model, graph: KnowledgeGraph | str | Path | None) -> KnowledgeGraph:
    """See `RapidDiffusionPipeline.with_knowledge`."""
    if graph is None:
        if model.graph is None:
            raise CheckpointError("knowledge", "this model has no graph; name the folder of one")
        version = model.graph.path
        graph = version.parent if (version.parent / CURRENT).is_file() else version
    if not isinstance(graph, KnowledgeGraph):
        try:
            graph = KnowledgeGraph.open(graph, verify="full")
            warm_up(graph.path)
        except (KnowledgeError, OSError) as error:
            raise CheckpointError(str(graph), str(error)) from error
    return _check_dimension(graph, model.text_config.entity_dimension)


def _check_dimension(knowledge: KnowledgeGraph, dimension: int) -> KnowledgeGraph:
    if knowledge.dimension not in (0, dimension):
        raise CheckpointError(
            knowledge.path,
            f"entity vectors of {knowledge.dimension} numbers; the text encoder takes {dimension}",
        )
    return knowledge
