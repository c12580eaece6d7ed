"""Devices, and which number format each is fast in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from rapid_diffusion.errors import InvalidRequestError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT32_VARIABLE = "RAPID_DIFFUSION_FLOAT32"
_FLOAT32: ContextVar[bool] = ContextVar("float32", default=False)


@contextmanager
def in_float32() -> Iterator[None]:
    """Calls of a pipeline that this thread makes inside the block denoise in float32.

    Slow where the weights are narrower: a copy of them is made. For pictures that came out wrong.
    """
    token = _FLOAT32.set(True)
    try:
        yield
    finally:
        _FLOAT32.reset(token)


def wants_float32() -> bool:
    """Whether this call stands inside `in_float32`."""
    return _FLOAT32.get()


def is_narrow(network: nn.Module) -> bool:
    """Whether some of its weights are kept, and calculated with, in less than float32."""
    return any(weight.dtype in (torch.float16, torch.bfloat16) for weight in network.parameters())


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware (CUDA, AVX-512 BF16, AMX), else float32.

    Without such units a processor emulates bfloat16, ten times slower than float32. The environment
    variable `RAPID_DIFFUSION_FLOAT32=1` says float32 everywhere.
    """
    if os.environ.get(FLOAT32_VARIABLE) == "1":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and has_units else torch.float32


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; for None, CUDA where there is one, else the CPU.

    Raises `InvalidRequestError` for a device that is unknown or not here.
    """
    has_cuda = torch.cuda.is_available()
    try:
        found = torch.device("cuda" if has_cuda else "cpu") if device is None else device
        found = torch.device(found)
    except (RuntimeError, TypeError) as error:
        raise InvalidRequestError("device", f"{device!r}; allowed: cpu, cuda, cuda:N") from error
    there = torch.cuda.device_count() if has_cuda else 0
    if found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < there):
        return found
    raise InvalidRequestError(
        "device", f"{str(found)!r}; this machine has cpu and {there} CUDA devices"
    )


def checked_dtype(dtype: object) -> torch.dtype:
    """float32, bfloat16 or float16; raises `InvalidRequestError` for anything else."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES:
        return dtype
    listed = ", ".join(map(str, DTYPES))
    raise InvalidRequestError("dtype", f"{dtype!r}; allowed: {listed}")
