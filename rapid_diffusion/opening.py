"""A model folder -> networks on a device, with code that was compiled ahead of time if asked."""

from pathlib import Path

import torch

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.artifacts.loading import Artifacts, open_artifacts, say_bypassed
from rapid_diffusion.errors import ArtifactError
from rapid_diffusion.model_folder import Model, load_model
from rapid_diffusion.precision import checked_dtype


def open_model(
    folder: Path,
    knowledge: KnowledgeGraph | str | Path | bool | None,
    artifacts: str | Path | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Model, Artifacts | None]:
    """The networks of a folder, and the artifacts they calculate with.

    Parameters as those of `RapidDiffusionPipeline.from_pretrained`. Raises `CheckpointError`.
    """
    found = open_artifacts(artifacts, folder, device, dtype) if artifacts else None
    if found is not None:
        model = load_model(folder, knowledge, found.components)
        move_model(model, device, dtype)
        try:
            found.bind(model)
        except ArtifactError as error:
            if artifacts != "auto":
                raise
            say_bypassed(str(error))
        else:
            return model, found
    model = load_model(folder, knowledge)
    move_model(model, device, dtype)
    return model, None


def move_model(model: Model, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move all networks; `dtype`: of the UNet and the upscaler only, None leaves them."""
    model.text_encoder.to(device)
    model.autoencoder.to(device)
    if model.pair is not None:
        model.pair.to(device)
    number_format = None if dtype is None else checked_dtype(dtype)
    for network in (model.denoiser, model.upscaler):
        if network is not None:
            network.to(device, number_format)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
