"""Low-rank branches by `peft` on the networks of a model, and the adapter that they become."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rapid_diffusion.checkpoints.adapter import AdapterCard, write_adapter
from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError
from rapid_diffusion.training.finetune_config import LoraConfig


@dataclass(frozen=True)
class Branches:
    """The networks with branches beside their layers; they draw with them from now on."""

    networks: Mapping[str, Any]

    def parameters(self, name: str) -> list[nn.Parameter]:
        """What learns in one network."""
        network = self.networks.get(name)
        return [p for n, p in network.named_parameters() if ".lora_" in n] if network else []

    def save(self, folder: Path, card: AdapterCard) -> None:
        """Write the adapter folder; raises `OutputError`."""
        from peft import get_peft_model_state_dict

        written = {}
        for name, network in self.networks.items():
            config = network.peft_config["default"]
            config.base_model_name_or_path = card.base.name
            weights = get_peft_model_state_dict(network, save_embedding_layers=False)
            written[name] = (_plain(config.to_dict()), weights)
        write_adapter(folder, card, written)


def add_branches(networks: Mapping[str, nn.Module], config: LoraConfig, seed: int) -> Branches:
    """Put branches that change nothing yet beside the chosen layers of every network, in place.

    Raises `InvalidRequestError` (`lora.targets`) where no layer has such a name, and
    `MissingDependencyError` without `peft`.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(
            "method 'lora' needs peft; run pip install 'rapid-diffusion[train]'"
        ) from error
    chosen = {name: _targets(network, config) for name, network in networks.items()}
    if not any(chosen.values()):
        raise InvalidRequestError(
            "lora.targets", f"{list(config.targets)} are the names of no layer; see docs"
        )
    changed = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, targets in chosen.items():
            if targets:
                settings = peft.LoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,  # type: ignore[arg-type]
                    lora_dropout=config.dropout,
                    target_modules=targets,
                )
                changed[name] = peft.get_peft_model(networks[name], settings)
    return Branches(changed)


def _targets(network: nn.Module, config: LoraConfig) -> list[str]:
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not config.targets:
        return layers
    return [
        name
        for name in layers
        if any(name == ending or name.endswith(f".{ending}") for ending in config.targets)
    ]


def _plain(value: Any) -> Any:
    """What JSON can hold, in an order that does not change."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)  # an enumeration's
