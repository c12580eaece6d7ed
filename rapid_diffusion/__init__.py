"""Rapid Diffusion: Chinese sentences become pictures of your own domain."""

from rapid_diffusion.errors import (
    CanceledError,
    CheckpointError,
    InvalidRequestError,
    MissingDependencyError,
    NumericalError,
    OutputError,
    RapidDiffusionError,
)
from rapid_diffusion.pipeline import RapidDiffusionPipeline
from rapid_diffusion.rendering import GenerationResult
from rapid_diffusion.text.entities import EntityWeight

__all__ = [
    "CanceledError",
    "CheckpointError",
    "EntityWeight",
    "GenerationResult",
    "InvalidRequestError",
    "MissingDependencyError",
    "NumericalError",
    "OutputError",
    "RapidDiffusionError",
    "RapidDiffusionPipeline",
]
