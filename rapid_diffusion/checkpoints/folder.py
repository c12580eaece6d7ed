"""Component folders: `config.json` beside one safetensors file, read and written strictly.

Storage may be narrower than what comes out: float16 and bfloat16 tensors are read as float32,
and a tensor `name` may lie on disk as int8 with its scales per output channel in `name.scale`
(dimension 0), which is read as float32 too.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.files import replacing, write_bytes

WEIGHT_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
SCALE_SUFFIX = ".scale"
Storage = Literal["float32", "float16", "int8"]
#: Turns a state dict into what is to be stored.
Narrow = Callable[[dict[str, Tensor]], dict[str, Tensor]]
_LISTED_KEYS = 4


def find_weights(path: str | Path) -> Path:
    """The weight file of a component folder, or `path` itself when it is a file.

    Raises:
        CheckpointError: nothing there, or a folder without one of `WEIGHT_NAMES`.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(path, "no such file or folder. Check the name, or fetch the model.")
    for name in WEIGHT_NAMES:
        if (path / name).is_file():
            return path / name
    found = sorted(entry.name for entry in path.iterdir())[:8]
    raise CheckpointError(
        path,
        f"holds {found or 'nothing'} but neither {' nor '.join(WEIGHT_NAMES)}. "
        "Fetch the component again, or convert its weights to safetensors.",
    )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a component folder or safetensors file, on the CPU.

    Floating tensors and dequantised int8 tensors come out as float32, integers as stored.

    Raises:
        CheckpointError: missing, truncated, foreign or inconsistent; the message says which.
    """
    file = find_weights(path)
    try:
        stored = load_file(file)
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(file, _why_unreadable(file, error)) from error
    return _widen(stored, file)


def _why_unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error}). Check its permissions and the disk."
    with file.open("rb") as opened:
        start = opened.read(32)
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "is a PyTorch pickle, not a safetensors file. Convert it with one of our importers."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights. Run `git lfs pull` where it came from."
    return (
        f"is not a whole safetensors file ({error}; {file.stat().st_size} bytes). "
        "It is truncated or of another format: fetch or write it again."
    )


def _widen(stored: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE_SUFFIX) and _is_int8(stored, name.removesuffix(SCALE_SUFFIX)):
            continue
        if tensor.dtype == torch.int8:
            tensor = _dequantise(name, stored, file)
        weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


def _is_int8(stored: dict[str, Tensor], name: str) -> bool:
    return name in stored and stored[name].dtype == torch.int8


def _dequantise(name: str, stored: dict[str, Tensor], file: Path) -> Tensor:
    values, scale = stored[name], stored.get(name + SCALE_SUFFIX)
    if scale is None:
        raise CheckpointError(
            file, f"{name} is int8 but {name}{SCALE_SUFFIX} is missing. Write the file again."
        )
    if values.dim() == 0 or scale.shape != values.shape[:1] or not scale.is_floating_point():
        raise CheckpointError(
            file,
            f"{name}{SCALE_SUFFIX} is {scale.dtype} {tuple(scale.shape)}; {name} "
            f"{tuple(values.shape)} needs one floating scale per row. Write the file again.",
        )
    return values.float() * scale.float().reshape(-1, *[1] * (values.dim() - 1))


def quantize_int8(weights: Mapping[str, Tensor], min_size: int = 4096) -> dict[str, Tensor]:
    """Store matrices and kernels of at least `min_size` numbers as int8 plus `name.scale`.

    Scales are float32, one per row of dimension 0; the error of a number is at most half a
    scale. Smaller tensors, vectors and integers are passed on as they are.
    """
    stored = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.dim() < 2 or tensor.numel() < min_size:
            stored[name] = tensor
            continue
        rows = tensor.detach().float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        stored[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(tensor.shape)
        stored[name + SCALE_SUFFIX] = scale
    return stored


def storage_of(folder: Path) -> Storage:
    """How the weights of a component folder are stored."""
    with safe_open(find_weights(folder), framework="pt") as opened:
        kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    return "int8" if "I8" in kinds else "float16" if "F16" in kinds else "float32"


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy `weights` into `module`; every key must be there, known, and of the right shape.

    Raises:
        CheckpointError: names the first few keys that are missing, unexpected or misshapen.
    """
    wanted = module.state_dict()
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ],
    }
    told = [f"{kind}: {_first_few(names)}" for kind, names in problems.items() if names]
    if told:
        raise CheckpointError(
            path,
            f"does not fit {type(module).__name__} ({'; '.join(told)}). "
            "Its config.json and its weights belong to different models.",
        )
    module.load_state_dict(dict(weights))


def _first_few(names: list[str]) -> str:
    more = len(names) - _LISTED_KEYS
    return ", ".join(names[:_LISTED_KEYS]) + (f" and {more} more" if more > 0 else "")


def write_weights(tensors: Mapping[str, Tensor], file: str | Path) -> None:
    """Write a safetensors file, whole or not at all; raises `OutputError`."""
    # Cloned because safetensors refuses tensors that share memory, such as tied embeddings.
    ready = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with replacing(file) as temporary:
        try:
            save_file(ready, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CheckpointError: missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror}). Fetch it again.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not JSON ({error}). Fetch it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, f"holds a {type(value).__name__}; a JSON object is wanted.")
    return value


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all; raises `OutputError`."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def json_digest(value: object) -> str:
    """64 hexadecimal digits over `value` as JSON, in whatever order its keys are."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def folder_digest(folder: str | Path) -> str:
    """`sha256:…` over the sorted relative names and contents of all files below `folder`.

    Hidden files (our own temporary ones among them) and the time of writing do not count.

    Raises:
        CheckpointError: `folder` is not a folder, or a file in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(folder, "no such folder. Check the name, or fetch the model.")
    whole = hashlib.sha256()
    for name in sorted(visible_files(folder)):
        try:
            with (folder / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(folder / name, f"cannot be read ({error.strerror}).") from error
        whole.update(f"{name}\0{content}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def visible_files(folder: Path) -> list[str]:
    """The relative names of all files below `folder` but hidden ones, in no order."""
    relative = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [
        name.as_posix() for name in relative if not any(part.startswith(".") for part in name.parts)
    ]
