"""Errors between two processes: names and words, since many exceptions do not survive pickling."""

import torch

from rapid_diffusion.errors import (
    CanceledError,
    CheckpointError,
    InvalidRequestError,
    MissingDependencyError,
    NumericalError,
    OutputError,
)
from server.picture_check import PictureRefusedError

_KNOWN: tuple[type[Exception], ...] = (
    CanceledError,
    MissingDependencyError,
    NumericalError,
    OutputError,
    torch.OutOfMemoryError,
    MemoryError,
)
Packed = tuple[str, tuple[str, ...]]


def pack_error(error: BaseException) -> Packed:
    """The class that the other side knows it by, and the words to build it from."""
    if isinstance(error, PictureRefusedError):
        return "PictureRefusedError", ()
    if isinstance(error, InvalidRequestError):
        return "InvalidRequestError", (error.field, str(error).removeprefix(f"{error.field}: "))
    if isinstance(error, CheckpointError):
        return "CheckpointError", (str(error.path), str(error).removeprefix(f"{error.path}: "))
    for kind in _KNOWN:
        if isinstance(error, kind):
            return kind.__name__, (str(error),)
    return "RuntimeError", (f"{type(error).__name__}: {error}",)


def unpack_error(packed: Packed) -> Exception:
    """The error again; what is not known here is a `RuntimeError`."""
    name, words = packed
    if name == "PictureRefusedError":
        return PictureRefusedError()
    if name == "InvalidRequestError":
        return InvalidRequestError(*words)
    if name == "CheckpointError":
        return CheckpointError(*words)
    kinds = {kind.__name__: kind for kind in _KNOWN}
    return kinds.get(name, RuntimeError)(*words)
