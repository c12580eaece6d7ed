"""An adapter on disk: low-rank changes of a model's networks, in the folders that `peft` writes.

    adapter.json                    our card: what it is called, and which model it changes
    unet/, draft/, text_encoder/    adapter_config.json and adapter_model.safetensors each

A change is `scale · up · down` beside the weight of a linear layer or a convolution (LoRA, Hu et
al., 2021). It means something on the weights it was trained on and on no others, so the card names
these by their digests. Reading needs no `peft`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.checkpoints.folder import (
    folder_digest,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from rapid_diffusion.components import components_of
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.files import replacing_folder

CARD = "adapter.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: The folders of a model that an adapter changes, and the one its sentences depend on.
NETWORKS = ("unet", "draft", "text_encoder")
PARTS = (*NETWORKS, "tokenizer")

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
#: What `peft` can do with a LoRA and this reader does not, with the values that mean "not used".
_UNUSED: dict[str, tuple[object, ...]] = {
    "bias": ("none",),
    **dict.fromkeys(
        (
            *("fan_in_fan_out", "use_dora", "use_qalora", "lora_bias", "use_bdlora"),
            *("exclude_modules", "modules_to_save", "layers_to_transform", "layer_replication"),
            *("rank_pattern", "alpha_pattern", "target_parameters", "trainable_token_indices"),
            *("alora_invocation_tokens", "arrow_config", "monteclora_config", "velora_config"),
        ),
        (None, False, {}, []),
    ),
}


@dataclass(frozen=True)
class Base:
    """A model by its name, the digest of its folder, and the digests of the parts that count.

    The card, the graph or the upscaler may change and an adapter still fits; weights may not.
    """

    name: str
    digest: str
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter says of itself."""

    name: str
    base: Base
    license: str = ""
    attribution: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    #: `sha256:…` of the adapter's folder, filled in by reading it.
    digest: str = ""


@dataclass(frozen=True)
class LowRank:
    """The change of one weight: up (O, r, …) times down (r, I, …), times `scale`."""

    up: Tensor
    down: Tensor
    scale: float

    def change(self, weight: Tensor) -> Tensor:
        """float32, of the shape and on the device of `weight`."""
        up, down = (part.to(weight.device).flatten(1) for part in (self.up, self.down))
        return (self.scale * (up @ down)).reshape(weight.shape)


#: Network -> module in it -> change of that module's weight.
Changes = dict[str, dict[str, LowRank]]


def base_of(folder: Path, name: str) -> Base:
    """The identity of the model in `folder`; raises `CheckpointError`."""
    components = components_of(folder)
    there = [name for name in PARTS if components[name].is_dir()]
    parts = {name: folder_digest(components[name]) for name in there}
    return Base(name, folder_digest(folder), parts)


def write_adapter(
    folder: Path,
    card: AdapterCard,
    networks: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]],
) -> None:
    """Write the folder, whole or not at all; an older adapter of that name is replaced.

    `networks` maps a name of `NETWORKS` to `peft`'s config and state dict. Raises `OutputError`.
    """
    with replacing_folder(folder, CARD) as temporary:
        said = {key: value for key, value in asdict(card).items() if key != "digest"}
        write_json(temporary / CARD, {"format": 1, **said})
        for name, (config, weights) in networks.items():
            (temporary / name).mkdir()
            write_json(temporary / name / CONFIG, config)
            write_weights(weights, temporary / name / WEIGHTS)


def read_adapter(
    folder: Path, base: Base, networks: Mapping[str, nn.Module]
) -> tuple[AdapterCard, Changes]:
    """Read an adapter of the model `base`, whose networks are given, strictly.

    Raises `CheckpointError`: missing or damaged files, an adapter of another model (both are
    named), kinds of LoRA that are not read, and any weight that is missing, unknown or misshapen.
    """
    card = _read_card(folder / CARD)
    _check_base(folder, card, base)
    there = sorted(path.name for path in folder.iterdir() if path.is_dir())
    unknown = [name for name in there if name not in networks and not name.startswith(".")]
    if unknown or not there:
        raise CheckpointError(
            folder, f"holds changes of {unknown or 'nothing'}; this model has {sorted(networks)}"
        )
    names = [name for name in there if name in networks]
    return card, {name: _read_changes(folder / name, networks[name]) for name in names}


def _read_card(path: Path) -> AdapterCard:
    if not path.is_file():
        raise CheckpointError(
            path, "no such file; this is no adapter that `rapid-diffusion finetune` wrote"
        )
    said, digest = read_json(path), folder_digest(path.parent)
    try:
        if said.pop("format") != 1:
            raise ValueError("its format is not 1: it is of a later version")
        card = AdapterCard(**said | {"base": Base(**said["base"]), "digest": digest})
        texts = (card.name, card.license, card.attribution, card.base.name, card.base.digest)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name, licence or digest is no text")
        if not isinstance(card.base.parts, dict):
            raise ValueError("base.parts is no object")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"is not the card of an adapter ({error})") from error
    return card


def _check_base(folder: Path, card: AdapterCard, base: Base) -> None:
    differing = [
        name for name in PARTS if card.base.parts.get(name, "") != base.parts.get(name, "")
    ]
    if differing:
        raise CheckpointError(
            folder,
            f"is an adapter of {card.base.name!r} ({card.base.digest[:19]}…); the model here is "
            f"{base.name!r} ({base.digest[:19]}…), which differs in {', '.join(differing)}. "
            "Open the model it was trained on, or train it on this one",
        )


def _read_changes(folder: Path, network: nn.Module) -> dict[str, LowRank]:
    config = read_json(folder / CONFIG)
    scale = _checked_scale(folder / CONFIG, config)
    weights = read_weights(folder / WEIGHTS)
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(folder / WEIGHTS, f"{key} is no weight of a LoRA")
        found.setdefault(match[1], {})[match[2]] = value
    wanted = _targets(config, network)
    strange = sorted(wanted.symmetric_difference(found))
    if strange or not found:
        where = "only in the weights" if strange and strange[0] in found else "not in the weights"
        raise CheckpointError(
            folder, f"{strange[0] if strange else 'everything'} is {where}, by {CONFIG}"
        )
    modules = dict(network.named_modules())
    return {
        name: _low_rank(folder / WEIGHTS, name, pair, modules[name], scale)
        for name, pair in found.items()
    }


def _checked_scale(path: Path, config: Mapping[str, Any]) -> float:
    """alpha / rank (or alpha / √rank), once it is clear that the LoRA is of the plain kind."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(path, f"peft_type is {config.get('peft_type')!r}; 'LORA' is read")
    for key, allowed in _UNUSED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise CheckpointError(path, f"{key} = {config[key]!r:.80} is not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(path, f"r = {rank!r}, lora_alpha = {alpha!r}; numbers are wanted")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _targets(config: Mapping[str, Any], network: nn.Module) -> set[str]:
    """The modules that the config means, by `peft`'s rule: a regular expression, or endings."""
    wanted = config.get("target_modules") or []
    names = [name for name, module in network.named_modules() if _has_matrix(module)]
    if isinstance(wanted, str):
        return {name for name in names if re.fullmatch(wanted, name)}
    return {n for n in names if any(n == ending or n.endswith(f".{ending}") for ending in wanted)}


def _has_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) or getattr(module, "is_matrix", False)


def _low_rank(
    path: Path, name: str, pair: Mapping[str, Tensor], module: nn.Module, scale: float
) -> LowRank:
    if set(pair) != {"A", "B"}:
        raise CheckpointError(path, f"{name} has lora_{' and lora_'.join(pair)} only; both wanted")
    weight = module.weight
    assert isinstance(weight, Tensor)
    down, up = pair["A"], pair["B"]
    rank = len(down)
    shapes_fit = down.shape[1:] == weight.shape[1:] and up.shape[:2] == (weight.shape[0], rank)
    if not shapes_fit or up.numel() != weight.shape[0] * rank:
        raise CheckpointError(
            path,
            f"{name}: {tuple(up.shape)} times {tuple(down.shape)} is no change of a weight of "
            f"shape {tuple(weight.shape)}",
        )
    if not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise CheckpointError(path, f"{name} holds a NaN or an infinity; train it again")
    return LowRank(up, down, scale)
