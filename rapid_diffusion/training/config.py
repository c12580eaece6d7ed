"""The TOML file of a training: one table for the data, one for each stage."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from rapid_diffusion.autoencoder import PatchConfig
from rapid_diffusion.checkpoints.folder import Storage
from rapid_diffusion.config import DenoiserConfig, ImageTowerConfig, TextConfig
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.model_folder import ModelCard
from rapid_diffusion.super_resolution.networks import UpscalerConfig
from rapid_diffusion.training.weighting import Weighting

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures, sentences and graph lie, and how sentences are varied.

    `pictures` and `large_pictures` are, where they are not named, those that `data prepare` writes
    at the sizes the model draws and enlarges to. With `shards` (a pattern of tar files, below
    `folder` or absolute) the rows come from there, at `size` and `large_size` pixels, with the
    characters of the text file `vocabulary`. Stages may begin with the weights of a model: both
    towers with those of `text_from`, autoencoder, draft and UNet with those of `denoiser_from`,
    the upscaler with that of `upscaler_from`, a model or a file of Real-ESRGAN, and the decoder's
    network with the upscaler of `decoder_from`. The draft learns from the pictures of
    `draft_folder` as well, which may be too rough for the others.
    """

    folder: str
    pictures: str = ""
    large_pictures: str = ""
    graph: str = "graph"
    caption_dropout: float = 0.1
    link_dropout: float = 0.3
    surface_dropout: float = 0.15
    upscaler_from: str = ""
    decoder_from: str = ""
    text_from: str = ""
    denoiser_from: str = ""
    draft_folder: str = ""
    shards: str = ""
    vocabulary: str = ""
    size: int = 64
    large_size: int = 256


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast one stage learns; `steps` may be raised later and training goes on."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200
    cooldown: int = 0
    weight_decay: float = 0.01
    ema: float = 0.999
    gradient_clip: float = 1.0
    checkpoint_seconds: float = 300.0
    seed: int = 0
    compile: bool = False
    accumulate: int = 1
    checkpoint_activations: bool = False
    log_every: int = 50
    sample_every: int = 1000


@dataclass(frozen=True)
class DiffusionConfig:
    """How much each moment of the flow counts: see `weighting.velocity_weights`."""

    weighting: Weighting = "none"
    gamma: float = 5.0


@dataclass(frozen=True)
class ModelConfig(ModelCard):
    """The card of the finished folder, and how its weights are stored."""

    storage: Storage = "float16"


@dataclass(frozen=True)
class TrainingConfig:
    """Everything one `rapid-diffusion train CONFIG` needs."""

    output: str
    model: ModelConfig
    data: DataConfig
    text: TextConfig
    image_tower: ImageTowerConfig
    autoencoder: PatchConfig
    denoiser: DenoiserConfig
    upscaler: UpscalerConfig
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    loops: dict[str, LoopConfig] = field(default_factory=dict)


def learning_rate(config: LoopConfig, step: int) -> float:
    """A linear start over `warmup` steps, then flat, then to zero over the last `cooldown`."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))
    if config.cooldown:
        rate *= min(1.0, max(0.02, (config.steps - step) / config.cooldown))
    return rate


def read_training_config(path: Path) -> TrainingConfig:
    """Read the file; relative folders are relative to the current directory.

    Raises `InvalidRequestError` naming the key that is unknown, missing or of the wrong type.
    """
    content = read_toml(path, [item.name for item in fields(TrainingConfig)])
    loops = read_loops(content)
    if not isinstance(content.get("output"), str):
        raise InvalidRequestError("output", f"{path} names no folder for the training to write to")
    model = read_section(ModelConfig, "model", content.get("model", {}))
    data = read_section(DataConfig, "data", content.get("data", {}))
    autoencoder = read_section(PatchConfig, "autoencoder", content.get("autoencoder", {}))
    denoiser = read_section(DenoiserConfig, "denoiser", content.get("denoiser", {}))
    upscaler = read_section(UpscalerConfig, "upscaler", content.get("upscaler", {}))
    side = denoiser.sample_size * autoencoder.factor
    return TrainingConfig(
        output=content["output"],
        model=model,
        data=with_pictures(data, side, side * upscaler.scale),
        # the vocabulary is read off the captions, so its size is not the user's to give
        text=read_section(TextConfig, "text", content.get("text", {}), vocabulary=0),
        image_tower=read_section(ImageTowerConfig, "image_tower", content.get("image_tower", {})),
        autoencoder=autoencoder,
        denoiser=denoiser,
        upscaler=upscaler,
        diffusion=_diffusion(content.get("diffusion", {})),
        loops=loops,
    )


def with_pictures(config: DataConfig, side: int, large_side: int) -> DataConfig:
    """It, naming the files of `data prepare` where it names none; sides are in pixels."""
    return replace(
        config,
        pictures=config.pictures or f"pictures_{side}.npy",
        large_pictures=config.large_pictures or f"pictures_{large_side}.npy",
    )


def read_toml(path: Path, allowed: Collection[str]) -> dict[str, Any]:
    """The tables and keys of a TOML file; `InvalidRequestError` names one that is not allowed."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequestError("config", f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError("config", f"{path}: not a TOML file ({error})") from error
    unknown = sorted(set(content) - set(allowed))
    if unknown:
        raise InvalidRequestError(unknown[0], f"unknown in {path}; allowed: {sorted(allowed)}")
    return content


def read_loops(content: Mapping[str, Any]) -> dict[str, LoopConfig]:
    """The tables `[loops.NAME]` of a file."""
    tables = _table("loops", content.get("loops", {}))
    return {name: _loop(f"loops.{name}", values) for name, values in tables.items()}


def _loop(name: str, values: object) -> LoopConfig:
    loop = read_section(LoopConfig, name, values)
    least_values = {"steps": 0, "batch": 1, "accumulate": 1, "log_every": 1, "sample_every": 0}
    for key, least in least_values.items():
        if getattr(loop, key) < least:
            raise InvalidRequestError(
                f"{name}.{key}", f"{getattr(loop, key)}; allowed: {least} or more"
            )
    return loop


def _diffusion(values: object) -> DiffusionConfig:
    section = read_section(DiffusionConfig, "diffusion", values)
    if not section.gamma > 0:
        raise InvalidRequestError("diffusion.gamma", f"{section.gamma}; allowed: more than 0")
    return section


def read_section(kind: type[Section], name: str, values: object, **known: Any) -> Section:
    """One table as its dataclass; the error names the first key that does not fit."""
    allowed = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    ready = known | {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in _table(name, values).items()
    }
    for key, value in ready.items():
        if key not in allowed:
            raise InvalidRequestError(f"{name}.{key}", f"unknown; allowed: {sorted(allowed)}")
        if not _fits(value, allowed[key].type):
            raise InvalidRequestError(f"{name}.{key}", f"{value!r}; {allowed[key].type} is wanted")
    for key, item in allowed.items():
        if key not in ready and item.default is MISSING:
            raise InvalidRequestError(f"{name}.{key}", "missing; it has no default")
    try:
        return kind(**ready)
    except ValueError as error:
        raise InvalidRequestError(name, str(error)) from error


def _table(name: str, values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InvalidRequestError(name, f"{values!r}; a table of keys and values is wanted")
    return values


def _fits(value: object, kind: Any) -> bool:
    """Whether a TOML value is of a field's type; a whole number may stand for any number."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(item, inner) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
