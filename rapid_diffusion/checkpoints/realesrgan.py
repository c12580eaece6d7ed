"""Importer of Real-ESRGAN: official `.pth` files and the ncnn files made from them.

The sizes of the network are read from the weights; whatever does not fit exactly is refused.
"""

import pickle
import struct
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from rapid_diffusion.checkpoints.folder import load_strict
from rapid_diffusion.checkpoints.ncnn import NcnnLayer, read_ncnn
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network
from rapid_diffusion.super_resolution.upscaler import Upscaler

_COLOURS = 3
_RRDB_TAIL = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
_RRDB_LINEAR = ("conv_first", "conv_body", "conv_last", "conv5")
_LEAKY, _LEAKY_SLOPE = 2, 0.2
_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def import_realesrgan(path: str | Path) -> Upscaler:
    """An upscaler with the weights of an official `.pth` or of an ncnn `.param` + `.bin`.

    Raises:
        CheckpointError: missing, damaged, or not RRDBNet or SRVGGNetCompact as published.
    """
    path = Path(path)
    if path.suffix == ".param":
        weights = _weights_of_ncnn(read_ncnn(path), path)
    else:
        weights = _weights_of_pth(path)
    try:
        config = infer_config(weights)
    except (LookupError, ValueError) as error:
        raise CheckpointError(
            path, f"is no RRDBNet and no SRVGGNetCompact as Real-ESRGAN publishes them ({error})"
        ) from error
    network = build_network(config)
    load_strict(network, weights, path)
    return Upscaler(network.eval(), config)


def infer_config(weights: Mapping[str, Tensor]) -> UpscalerConfig:
    """The sizes of the network to which `weights` (BasicSR names) belong.

    Raises `LookupError` or `ValueError` where they belong to none of ours.
    """
    if "conv_first.weight" in weights:
        return _rrdb_config(weights)
    if "body.0.weight" in weights:
        return _srvgg_config(weights)
    raise ValueError(f"its keys begin with {sorted(weights)[:3]}")


def _rrdb_config(weights: Mapping[str, Tensor]) -> UpscalerConfig:
    features, channels = weights["conv_first.weight"].shape[:2]
    # Scales 2 and 1 fold 2x2 and 4x4 pixels into the channels of the first convolution.
    scale = 4 // max(1, isqrt(channels // _COLOURS))
    blocks = {name.split(".")[1] for name in weights if name.startswith("body.")}
    return UpscalerConfig(
        "RRDBNet",
        scale,
        features,
        num_block=len(blocks),
        num_grow_ch=weights["body.0.rdb1.conv1.weight"].shape[0],
    )


def _srvgg_config(weights: Mapping[str, Tensor]) -> UpscalerConfig:
    kernels = {int(name.split(".")[1]): w for name, w in weights.items() if w.dim() == 4}
    if len(weights) == 2 * len(kernels):
        raise ValueError("it has no PReLU weights, so its activation cannot be known")
    return UpscalerConfig(
        "SRVGGNetCompact",
        isqrt(kernels[max(kernels)].shape[0] // _COLOURS),
        kernels[0].shape[0],
        num_conv=len(kernels) - 2,
    )


def _weights_of_pth(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror}). Check the name.") from None
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0][:160]
        raise CheckpointError(
            path, f"is not a whole file of plain PyTorch weights ({reason}). Fetch it again."
        ) from error
    for name in ("params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not _only_tensors(content):
        raise CheckpointError(path, "holds neither 'params_ema' nor 'params' nor plain weights")
    return {name: tensor.float() for name, tensor in content.items()}


def _only_tensors(content: Mapping[object, object]) -> bool:
    return bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def _weights_of_ncnn(layers: list[NcnnLayer], path: Path) -> dict[str, Tensor]:
    try:
        if any(layer.kind == "PixelShuffle" for layer in layers):
            return _srvgg_weights(layers)
        return _rrdb_weights(layers)
    except ValueError as error:
        raise CheckpointError(
            path, f"is an ncnn model, but not one of ours: {error}. Take an x4 file."
        ) from error


def _srvgg_weights(layers: list[NcnnLayer]) -> dict[str, Tensor]:
    kinds = [layer.kind for layer in layers]
    body = layers[2:-3]
    wanted = ["Convolution", "PReLU"] * (len(body) // 2) + ["Convolution"]
    wanted = ["Input", "Split", *wanted, "PixelShuffle", "Interp", "BinaryOp"]
    # The x2 and x3 files of animevideov3 shrink the x4 picture at the end and are refused here.
    if kinds != wanted:
        raise ValueError(f"its layers are not {' '.join(wanted[:4])} … {' '.join(wanted[-4:])}")
    names = [f"body.{number}" for number in range(len(body))]
    return _named(names, body, linear=names)


def _rrdb_weights(layers: list[NcnnLayer]) -> dict[str, Tensor]:
    convolutions = [layer for layer in layers if layer.kind == "Convolution"]
    blocks, rest = divmod(len(convolutions) - 1 - len(_RRDB_TAIL), 15)
    counted = {kind: [layer.kind for layer in layers].count(kind) for kind in ("Concat", "Interp")}
    if rest or blocks < 1 or counted != {"Concat": 12 * blocks, "Interp": 2}:
        raise ValueError(f"{len(convolutions)} convolutions and {counted} make no RRDBNet")
    body = [
        f"body.{block}.rdb{dense}.conv{number}"
        for block in range(blocks)
        for dense in (1, 2, 3)
        for number in range(1, 6)
    ]
    return _named(["conv_first", *body, *_RRDB_TAIL], convolutions, linear=_RRDB_LINEAR)


def _named(
    names: list[str], layers: list[NcnnLayer], linear: list[str] | tuple[str, ...]
) -> dict[str, Tensor]:
    """BasicSR names for the weights; checks that each layer computes what its name says."""
    weights = {}
    for name, layer in zip(names, layers, strict=True):
        if layer.weight is None:
            raise ValueError(f"{layer.name} has no weights")
        if layer.kind == "Convolution":
            _check_convolution(layer, leaky=not name.endswith(tuple(linear)))
        weights[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            weights[f"{name}.bias"] = layer.bias
    return weights


def _check_convolution(layer: NcnnLayer, leaky: bool) -> None:
    """3x3, stride 1, border 1, with a leaky ReLU of slope 0.2 fused in or with none."""
    shape = [layer.option(key, default) for key, default in ((1, 0), (2, 1), (3, 1), (4, 0))]
    activation = layer.option(9, 0)
    slope = layer.option(10, 0) if activation else None
    wanted = (_LEAKY, _LEAKY_SLOPE) if leaky else (0, None)
    if shape != [3, 1, 1, 1] or (activation, slope) != wanted:
        raise ValueError(f"{layer.name} is another kind of convolution {layer.options}")
