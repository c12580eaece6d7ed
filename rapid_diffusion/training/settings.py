"""What the curve of a stage hangs on, beside its loop."""

from dataclasses import asdict
from typing import Any

from rapid_diffusion.config import TextConfig
from rapid_diffusion.training.config import TrainingConfig


def stage_settings(config: TrainingConfig, text: TextConfig, name: str) -> dict[str, Any]:
    """What a checkpoint of the stage `name` is refused for where it was another.

    Not the paths: a data set may be moved. `text` has the sizes that follow from it.
    """
    tables: dict[str, Any] = {"text": text, "data": config.data}
    if name == "text":
        tables["image_tower"] = config.image_tower
    elif name == "decoder":
        tables = {"autoencoder": config.autoencoder}
    elif name == "super_resolution":
        tables = {"autoencoder": config.autoencoder, "upscaler": config.upscaler}
    else:
        tables |= {"autoencoder": config.autoencoder, "denoiser": config.denoiser}
    if name == "diffusion":
        tables["diffusion"] = config.diffusion
    values = {
        f"{table}.{key}": list(value) if isinstance(value, tuple) else value
        for table, section in tables.items()
        for key, value in asdict(section).items()
        if not (table == "data" and isinstance(value, str))
    }
    return values | ({"model.shift": config.model.shift} if name == "diffusion" else {})
