"""Artifacts -> calls: what was compiled takes the place of the networks' own forward."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from rapid_diffusion.artifacts.graphs import Run, captured
from rapid_diffusion.artifacts.identity import WeightPlace, default_folder, made_for
from rapid_diffusion.artifacts.manifest import MANIFEST, NEXT_STEP, PREFIX, read_artifact_manifest
from rapid_diffusion.checkpoints.folder import read_json, read_weights
from rapid_diffusion.components import INDEX
from rapid_diffusion.denoising.compiled import mark_folded
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.errors import ArtifactError, CheckpointError, InvalidRequestError
from rapid_diffusion.model_folder import Model

logger = logging.getLogger(__name__)

CONSTANTS = "constants.safetensors"
Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Artifacts:
    """Artifacts on disk that are whole and made for this machine and model; see `bind`."""

    folder: Path
    checksum: str
    weights: WeightPlace
    parts: Mapping[str, Any]

    @property
    def components(self) -> frozenset[str]:
        """The model's components that are compiled, by their folders' names."""
        return frozenset(name.rpartition("-")[0] for name in self.parts)

    @property
    def rows(self) -> list[int]:
        """How many rows a call of the compiled UNet may have."""
        return sorted(told["rows"] for name, told in self.parts.items() if name.startswith("unet-"))

    @property
    def engine(self) -> str:
        """What pictures say of it: pixels depend on what was compiled, and for how many rows."""
        return f"artifacts {self.checksum.removeprefix('sha256:')[:12]}"

    def bind(self, model: Model) -> None:
        """Load the compiled parts and let the components of `model` calculate with them.

        With weights outside, the code reads the very tensors of `model`: changes in place, such as
        an adapter's, count at once; a network must not be moved any more. Raises `ArtifactError`
        where the model's weights are not of the names and shapes that were compiled.
        """
        for component in sorted(self.components):
            module, method = _place_of(model, component)
            runners = [
                self._runner(name, module)
                for name in self.parts
                if name.rpartition("-")[0] == component
            ]
            call: Network = CompiledPart(component, runners)
            if isinstance(module, Denoiser):
                call = _with_drafts(module, call)
            setattr(module, method, call)
            if self.weights == "folded":
                mark_folded(module)

    def _runner(self, name: str, module: nn.Module) -> "Runner":
        told, folder = self.parts[name], self.folder / name
        device = next(module.parameters(), next(module.buffers(), torch.empty(0))).device
        index = -1 if device.index is None else device.index
        constants = _constants(folder, told["constants"], module) if told["constants"] else {}
        try:
            loader = torch._C._aoti.AOTIModelPackageLoader(str(folder), "model", False, 1, index)
            if constants:
                loader.load_constants(constants, False, True, True)
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise ArtifactError(folder, f"cannot be loaded ({line}); {NEXT_STEP}") from error
        shapes = [tuple(taken["shape"][1:]) for taken in told["inputs"]]
        dtypes = [getattr(torch, taken["dtype"]) for taken in told["inputs"]]
        run: Run = loader.boxed_run
        rows = told["rows"]
        if device.type == "cuda":
            taken = zip(shapes, dtypes, strict=True)
            run = captured(run, [torch.zeros(rows, *s, dtype=d, device=device) for s, d in taken])
        return Runner(run, rows, shapes, dtypes, constants)


@dataclass(frozen=True)
class Runner:
    """One compiled part, for calls of exactly `rows` rows; it keeps its constants alive."""

    run: Run
    rows: int
    shapes: list[tuple[int, ...]]
    dtypes: list[torch.dtype]
    constants: Mapping[str, Tensor]

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Rows that are missing are copies of the last one, and what they give is dropped."""
        missing = self.rows - len(inputs[0])
        output: Tensor = self.run(
            [_filled(tensor.to(dtype), missing) for tensor, dtype in self._pairs(inputs)]
        )[0]
        return output[: len(inputs[0])]

    def _pairs(self, inputs: Sequence[Tensor]) -> list[tuple[Tensor, torch.dtype]]:
        return list(zip(inputs, self.dtypes, strict=True))


class CompiledPart:
    """A part compiled for one or several numbers of rows; takes any number of rows.

    The least number that has room for all rows is taken, else the largest one, several times: so a
    row's bits depend on that number, and not on its neighbours.
    """

    def __init__(self, component: str, runners: Sequence[Runner]) -> None:
        self.component = component
        self.runners = sorted(runners, key=lambda runner: runner.rows)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Inputs (B, …) as the network's own -> its output; `InvalidRequestError` for others."""
        self._check(inputs)
        # OpenMP knows how many threads to use for each thread that calls; this tells it for ours.
        torch.get_num_threads()
        rows = len(inputs[0])
        runner = next((r for r in self.runners if r.rows >= rows), self.runners[-1])
        outputs = [
            runner([tensor[begin : begin + runner.rows] for tensor in inputs])
            for begin in range(0, rows, runner.rows)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _check(self, inputs: Sequence[Tensor]) -> None:
        """Compiled code trusts its inputs: another shape would be read as if it were the right."""
        wanted, rows = self.runners[0].shapes, len(inputs[0]) if inputs else 0
        got = [tuple(tensor.shape[1:]) for tensor in inputs]
        if rows < 1 or got != wanted or any(len(tensor) != rows for tensor in inputs):
            shapes = [tuple(tensor.shape) for tensor in inputs]
            raise InvalidRequestError(
                "artifacts",
                f"{self.component} is called with {shapes}; it was compiled for rows of {wanted}. "
                "Open the model without artifacts for other sizes",
            )


def _filled(tensor: Tensor, missing: int) -> Tensor:
    if missing:
        tensor = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
    return tensor.contiguous()


def _with_drafts(denoiser: Denoiser, call: Network) -> Network:
    """The denoiser's signature: drafts are made where they are not given."""

    def drafted(
        rows: Tensor, timesteps: Tensor, hidden: Tensor, mask: Tensor, drafts: Tensor | None = None
    ) -> Tensor:
        drafts = denoiser.drafts(hidden) if drafts is None else drafts
        inputs = (rows, timesteps, hidden, mask)
        return call(*inputs) if drafts is None else call(*inputs, drafts)

    return drafted


def _place_of(model: Model, component: str) -> tuple[nn.Module, str]:
    """The module of a component, and which of its methods is compiled."""
    places: dict[str, tuple[nn.Module | None, str]] = {
        "text_encoder": (model.text_encoder, "forward"),
        "unet": (model.denoiser, "forward"),
        "vae": (model.autoencoder, "decode"),
        "super_resolution": (model.upscaler and model.upscaler.network, "forward"),
        "image_tower": (model.pair, "image_features"),
    }
    module, method = places.get(component, (None, ""))
    if module is None:
        raise ArtifactError(component, f"is compiled, but the model has none; {NEXT_STEP}")
    return module, method


def _constants(folder: Path, wanted: Mapping[str, Any], module: nn.Module) -> dict[str, Tensor]:
    """What the code calculates with: the module's own tensors, and those that no module stores."""
    there = {PREFIX + name: value for name, value in module.state_dict(keep_vars=True).items()}
    own = read_weights(folder / CONSTANTS)
    found = {}
    for name, facts in wanted.items():
        tensor = there.get(name, own.get(name))
        if tensor is None or not _fits(tensor, facts):
            got = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ArtifactError(
                folder, f"{name} is {got} in the model, compiled as {facts}; {NEXT_STEP}"
            )
        _lay_out(tensor, facts["stride"])
        found[name] = tensor.detach() if name in there else tensor.to(_device_of(module))
    return found


def _fits(tensor: Tensor, facts: Mapping[str, Any]) -> bool:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return list(tensor.shape) == facts["shape"] and dtype == facts["dtype"]


def _lay_out(tensor: Tensor, stride: Sequence[int]) -> None:
    """Bring a weight into the order in memory that the code was compiled for."""
    if list(tensor.stride()) != list(stride):
        ordered = torch.empty_strided(
            tensor.shape, tuple(stride), dtype=tensor.dtype, device=tensor.device
        )
        tensor.data = ordered.copy_(tensor.detach())


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


def open_artifacts(
    wanted: str | Path, model: Path, device: torch.device, dtype: torch.dtype
) -> Artifacts | None:
    """The artifacts in the folder `wanted`, checked; nothing of them is executed yet.

    With "auto" those in the default folder; where there are none that fit, None, and a warning
    says why, once. Raises `ArtifactError` naming what is damaged or different.
    """
    if str(wanted) != "auto":
        return read_artifacts(Path(wanted), model, device, dtype)
    try:
        return read_artifacts(_default_of(model, device, dtype), model, device, dtype)
    except CheckpointError as error:
        say_bypassed(str(error))
        return None


def state_of_artifacts(model: Path, device: torch.device, dtype: torch.dtype) -> str:
    """One line about what "auto" finds; nothing is executed."""
    try:
        found = read_artifacts(_default_of(model, device, dtype), model, device, dtype)
    except CheckpointError as error:
        return f"none that can be used: {error}"
    return f"rows {found.rows}, weights {found.weights}, in {found.folder}"


def read_artifacts(
    folder: Path, model: Path, device: torch.device, dtype: torch.dtype
) -> Artifacts:
    """The artifacts in `folder`, once they are whole and made for this; else `ArtifactError`."""
    told = read_artifact_manifest(folder, partial(made_for, model, device, dtype))
    for name, part in told["parts"].items():
        if name != f"{name.rpartition('-')[0]}-{part['rows']}" or "/" in name:
            raise ArtifactError(folder / MANIFEST, f"has a part {name!r}; {NEXT_STEP}")
    return Artifacts(folder, told["checksum"], told["made_for"]["weights"], told["parts"])


def _default_of(model: Path, device: torch.device, dtype: torch.dtype) -> Path:
    """The default folder: that of weights outside, if there is none that of folded ones."""
    card = read_json(model / INDEX).get("card")
    name = str(card.get("name", "model")) if isinstance(card, dict) else "model"
    folders = [
        default_folder(name, made_for(model, device, dtype, place))
        for place in get_args(WeightPlace)
    ]
    return next((folder for folder in folders if (folder / MANIFEST).is_file()), folders[0])


@cache
def say_bypassed(reason: str) -> None:
    """Warn that the model runs as it is; each reason once."""
    logger.warning("artifacts are not used: %s", reason)
