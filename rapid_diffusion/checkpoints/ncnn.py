"""Reader of ncnn's `.param` (the layers, as text) and `.bin` (their weights, in that order).

Follows https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure. Only layers whose
weights Real-ESRGAN needs are read, Convolution and PReLU; other weighted layers leave bytes
over, which is an error.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rapid_diffusion.errors import CheckpointError

_MAGIC = "7767517"
_FLOAT32, _FLOAT16 = 0, 0x01306B47
# An array under key k is written with the key -23300 - k.
_ARRAY_KEYS = -23300


@dataclass(frozen=True)
class NcnnLayer:
    """One line of a `.param` file; `options` are its numbers by key, a single one as a list."""

    kind: str
    name: str
    options: dict[int, list[float]]
    weight: Tensor | None = None
    bias: Tensor | None = None

    def option(self, key: int, default: float) -> float:
        """The first number under `key`."""
        return self.options.get(key, [default])[0]


def read_ncnn(param: str | Path) -> list[NcnnLayer]:
    """The layers of `param` with float32 weights from the `.bin` file beside it.

    Raises:
        CheckpointError: a file is missing, truncated, longer than its layers need, quantised to
            8 bits, or not of ncnn.
    """
    param = Path(param)
    try:
        text = param.read_text("ascii")
        content = param.with_suffix(".bin").read_bytes()
        lines = _layer_lines(text)
        reader = _Reader(content)
        layers = [_with_weights(_layer(line), reader) for line in lines]
        reader.finish()
    except OSError as error:
        raise CheckpointError(
            error.filename or param,
            f"cannot be read ({error.strerror}). ncnn keeps a model in two files, .param and .bin.",
        ) from error
    except (ValueError, LookupError, struct.error) as error:
        raise CheckpointError(
            param, f"and its .bin are not a whole ncnn model ({error}). Fetch both again."
        ) from error
    return layers


def _layer_lines(text: str) -> list[str]:
    magic, counts, *lines = [line for line in text.splitlines() if line.strip()] or ["", ""]
    if magic.strip() != _MAGIC:
        raise ValueError(f"the first line is {magic[:20]!r}, not {_MAGIC}")
    wanted = int(counts.split()[0])
    if len(lines) != wanted:
        raise ValueError(f"{len(lines)} layers where {wanted} are announced")
    return lines


def _layer(line: str) -> NcnnLayer:
    kind, name, inputs, outputs, *rest = line.split()
    options = {}
    for entry in rest[int(inputs) + int(outputs) :]:
        key, _, value = entry.partition("=")
        numbers = [float(number) for number in value.split(",")]
        # An array begins with its length.
        is_array = int(key) <= _ARRAY_KEYS
        options[_ARRAY_KEYS - int(key) if is_array else int(key)] = numbers[is_array:]
    return NcnnLayer(kind, name, options)


def _with_weights(layer: NcnnLayer, reader: "_Reader") -> NcnnLayer:
    if layer.kind == "PReLU":
        slopes = reader.numbers(int(layer.option(0, 0)), _FLOAT32)
        return NcnnLayer(layer.kind, layer.name, layer.options, slopes)
    if layer.kind != "Convolution":
        return layer
    channels, side = int(layer.option(0, 0)), int(layer.option(1, 0))
    weight = reader.numbers(int(layer.option(6, 0)), reader.flag())
    bias = reader.numbers(channels, _FLOAT32) if layer.option(5, 0) else None
    kernel = weight.reshape(channels, -1, side, side)
    return NcnnLayer(layer.kind, layer.name, layer.options, kernel, bias)


class _Reader:
    """Walks through the bytes of a `.bin` file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def flag(self) -> int:
        """How the weights that follow are stored."""
        (flag,) = struct.unpack_from("<I", self.content, self.place)
        self.place += 4
        return int(flag)

    def numbers(self, count: int, flag: int) -> Tensor:
        """The next `count` numbers as float32; float16 ones are padded to four bytes."""
        if count < 1 or flag not in (_FLOAT32, _FLOAT16):
            raise ValueError(f"{count} weights stored as {flag:#x}; float32 or float16 is wanted")
        kind, size = ("<f2", 2) if flag == _FLOAT16 else ("<f4", 4)
        values = np.frombuffer(self.content, kind, count, self.place)
        self.place += -(-count * size // 4) * 4
        return torch.from_numpy(values.astype(np.float32))

    def finish(self) -> None:
        """All bytes must have been used."""
        if self.place != len(self.content):
            raise ValueError(f"{len(self.content)} bytes of weights; its layers use {self.place}")
