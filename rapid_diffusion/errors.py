"""The errors of the library.

    RapidDiffusionError
    ├── InvalidRequestError (ValueError)      a parameter of a call; `.field` names it
    ├── CheckpointError                       a model folder or weight file; `.path` names it
    │   └── ArtifactError                     compiled code: stale, foreign or damaged
    ├── MissingDependencyError (ImportError)  an optional package is not installed
    ├── NumericalError (ArithmeticError)      a NaN or an infinity where a picture should be
    ├── OutputError (OSError)                 saving failed; nothing half-written is left behind
    └── CanceledError                         the caller asked for the run to stop

Every message says what was received, what is allowed, and what to do next.
"""

from pathlib import Path


class RapidDiffusionError(Exception):
    """Base of every error this library raises on purpose."""


class InvalidRequestError(RapidDiffusionError, ValueError):
    """A parameter is outside what is allowed; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class CheckpointError(RapidDiffusionError):
    """A model folder or weight file is missing, damaged or foreign; `path` is where."""

    def __init__(self, path: str | Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = Path(path)


class ArtifactError(CheckpointError):
    """What was compiled ahead of time is missing, damaged, or made for something else."""


class MissingDependencyError(RapidDiffusionError, ImportError):
    """An optional package is needed; the message says how to install it."""


class NumericalError(RapidDiffusionError, ArithmeticError):
    """The model gave a NaN or an infinity."""


class OutputError(RapidDiffusionError, OSError):
    """A file could not be written; what was there before is untouched."""


class CanceledError(RapidDiffusionError):
    """The run was stopped on request."""
