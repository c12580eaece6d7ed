"""Networks -> native code: each part of a model exported and compiled by AOTInductor.

Needs a C++ compiler, and minutes. Of what the compiler packs, the library and its description are
kept, unpacked: so every file that is executed has its checksum, and nothing is unpacked when it is
loaded.
"""

import logging
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.artifacts.identity import MadeFor
from rapid_diffusion.artifacts.loading import CONSTANTS
from rapid_diffusion.artifacts.manifest import MANIFEST, PREFIX, write_artifact_manifest
from rapid_diffusion.checkpoints.folder import write_weights
from rapid_diffusion.denoising.winograd import with_fewer_products
from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError
from rapid_diffusion.files import replacing_folder
from rapid_diffusion.model_folder import Model

logger = logging.getLogger(__name__)

#: Where the loader of torch looks for the library.
LIBRARY = Path("data", "aotinductor", "model")


@dataclass(frozen=True)
class Part:
    """A network, its method that is compiled, and inputs of the shapes it is compiled for."""

    network: nn.Module
    method: str
    inputs: tuple[Tensor, ...]


class _Method(nn.Module):
    """A method as a module's forward, the module being below `network.` as in `PREFIX`."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.network = part.network
        self.method = part.method

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = getattr(self.network, self.method)(*inputs)
        return output


def parts_of(model: Model, rows: Sequence[int]) -> dict[str, Part]:
    """What of a model is compiled, by `<component>-<rows of a call>`.

    `rows` are of the UNet; the other parts take one row a call, so that a picture is decoded and
    enlarged in the same bits whoever is drawn beside it.
    """
    text, denoiser = model.text_config, model.denoiser
    at = next(model.text_encoder.parameters()).device
    length, side = text.max_length, denoiser.sample_size
    sentence = torch.ones(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool)
    vectors = torch.zeros(1, length, text.entity_dimension)
    latents = torch.zeros(1, denoiser.channels, side, side)
    pixels = side * model.autoencoder.factor
    picture = torch.zeros(1, 3, pixels, pixels)
    parts = {
        "text_encoder-1": Part(model.text_encoder, "forward", (*sentence, vectors)),
        "vae-1": Part(model.autoencoder, "decode", (latents,)),
    }
    if model.upscaler is not None:
        tile = _tile(model, pixels)
        parts["super_resolution-1"] = Part(model.upscaler.network, "forward", (tile,))
    if model.pair is not None:
        parts["image_tower-1"] = Part(model.pair, "image_features", (picture,))
    for count in rows:
        inputs: tuple[Tensor, ...] = (
            latents.repeat(count, 1, 1, 1),
            torch.full((count,), 500.0),
            torch.zeros(count, length, text.width),
            torch.ones(count, length, dtype=torch.bool),
        )
        if denoiser.draft is not None:
            inputs = (*inputs, torch.zeros(count, denoiser.draft.channels, side, side))
        parts[f"unet-{count}"] = Part(denoiser, "forward", inputs)
    return {
        name: Part(part.network, part.method, tuple(tensor.to(at) for tensor in part.inputs))
        for name, part in parts.items()
    }


def _tile(model: Model, pixels: int) -> Tensor:
    """What the upscaler's network gets of a drawing: a tile of it, its sides made to fit."""
    assert model.upscaler is not None
    multiple = model.upscaler.config.multiple
    side = min(pixels + -pixels % multiple, model.upscaler.tile)
    return torch.zeros(1, 3, side, side, dtype=next(model.upscaler.parameters()).dtype)


def write_artifacts(
    model: Model,
    made: MadeFor,
    folder: Path,
    rows: Sequence[int],
    progress: Callable[[str], None] = logger.info,
) -> None:
    """Compile all parts of `model` into `folder`, whole or not at all.

    An older folder of artifacts is replaced. Raises `OutputError`, `MissingDependencyError` without
    a C++ compiler, `InvalidRequestError` for rows below 1.
    """
    if not rows or any(count < 1 for count in rows):
        raise InvalidRequestError("rows", f"{list(rows)}; allowed: 1 and more")
    write_parts(parts_of(model, sorted(set(rows))), made, folder, progress)


def write_parts(
    parts: Mapping[str, Part],
    made: MadeFor,
    folder: Path,
    progress: Callable[[str], None] = logger.info,
) -> None:
    """Compile these parts only; a model that is opened with them builds the others as ever."""
    _check_compiler()
    with replacing_folder(folder, MANIFEST) as temporary:
        told = {}
        for name, part in parts.items():
            progress(f"compiling {name}")
            told[name] = _write_part(part, temporary / name, made.weights == "folded")
        write_artifact_manifest(temporary, asdict(made), told)


def _write_part(part: Part, folder: Path, folded: bool) -> dict[str, Any]:
    """Compile one part; what its manifest says of inputs and constants."""
    if folded:
        part = replace(part, network=with_fewer_products(part.network))
    module = _Method(part).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own ways while it traces
        if folded:
            module(*part.inputs)  # what of it prepares itself does so at its first call
        program = torch.export.export(module, part.inputs)
        with tempfile.TemporaryDirectory(prefix="rapid-") as scratch:
            package = f"{scratch}/part.pt2"
            torch._inductor.aoti_compile_and_package(
                program, package_path=package, inductor_configs=options(folded)
            )
            _unpack(Path(package), folder / LIBRARY)
    rows = len(part.inputs[0])
    told: dict[str, Any] = {"rows": rows, "inputs": [_facts(tensor) for tensor in part.inputs]}
    if folded:
        return told | {"constants": {}}
    weights = {PREFIX + name: value for name, value in part.network.state_dict().items()}
    known = {**program.constants, **program.state_dict, **weights}
    names = _constants_of(folder)
    own = {name: known[name] for name in names if name not in weights}
    write_weights(own, folder / CONSTANTS)
    return told | {"constants": {name: _facts(known[name]) for name in sorted(names)}}


def options(folded: bool) -> dict[str, Any]:
    """Inductor's settings; the number of threads is the one at run time, not that of today."""
    return {
        "freezing": folded,
        "aot_inductor.package_constants_in_so": folded,
        "cpp.dynamic_threads": True,
    }


def _unpack(package: Path, folder: Path) -> None:
    """The library and its description, without the sources."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            file = Path(name)
            if LIBRARY.as_posix() in name and file.suffix in (".so", ".json", ".cubin"):
                with archive.open(name) as source, (folder / file.name).open("wb") as target:
                    shutil.copyfileobj(source, target)


def _constants_of(folder: Path) -> list[str]:
    loader = torch._C._aoti.AOTIModelPackageLoader(str(folder), "model", False, 1, -1)
    return loader.get_constant_fqns()


def _facts(tensor: Tensor) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except (RuntimeError, OSError) as error:
        raise MissingDependencyError(
            f"no C++ compiler ({error}); install one, such as g++, on the machine that compiles"
        ) from error
