"""Rapid Diffusion: Chinese sentences become pictures of your own domain."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapid_diffusion.canceling import Cancellation
    from rapid_diffusion.config import MOST_ROWS
    from rapid_diffusion.denoising.meter import EngineWork
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
    from rapid_diffusion.precision import in_float32
    from rapid_diffusion.previewing import Previews
    from rapid_diffusion.rendering import GenerationResult
    from rapid_diffusion.text.entities import EntityWeight
    from rapid_diffusion.version import __version__

__all__ = [
    "MOST_ROWS",
    "CanceledError",
    "Cancellation",
    "CheckpointError",
    "EngineWork",
    "EntityWeight",
    "GenerationResult",
    "InvalidRequestError",
    "MissingDependencyError",
    "NumericalError",
    "OutputError",
    "Previews",
    "RapidDiffusionError",
    "RapidDiffusionPipeline",
    "__version__",
    "in_float32",
]

#: Where a public name lives, if not among the errors. They are imported when they are first asked
#: for: torch alone takes seconds, which `rapid-diffusion --help` does not have.
_HOMES = {
    "MOST_ROWS": "config",
    "Cancellation": "canceling",
    "EngineWork": "denoising.meter",
    "EntityWeight": "text.entities",
    "GenerationResult": "rendering",
    "Previews": "previewing",
    "RapidDiffusionPipeline": "pipeline",
    "__version__": "version",
    "in_float32": "precision",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value  # the next access does not come by here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
