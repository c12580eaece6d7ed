"""A network's weights under their names, without its code: what a compiled part calculates with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.errors import InvalidRequestError


class Sizes(dict[str, Any]):
    """A component's `config.json` whose entries are attributes too, as those of `diffusers` are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class BareNetwork(nn.Module):
    """A tree of modules that holds parameters under their names, and cannot be called.

    It moves, saves and takes adapters as the network does whose weights it has, but needs neither
    `diffusers` nor `transformers`.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config = Sizes(config or {})
        for name, tensor in weights.items():
            *path, last = name.split(".")
            node: nn.Module = self
            for part in path:
                if part not in dict(node.named_children()):
                    node.add_module(part, BareNetwork({}))
                node = node.get_submodule(part)
            node.register_parameter(last, nn.Parameter(tensor, requires_grad=False))

    @property
    def dtype(self) -> torch.dtype:
        """The number format of its first floating weight."""
        floating = (weight.dtype for weight in self.parameters() if weight.is_floating_point())
        return next(floating, torch.float32)

    @property
    def is_matrix(self) -> bool:
        """Whether it stands for a layer with a matrix or a kernel, which an adapter may change."""
        weight = self._parameters.get("weight")
        return weight is not None and weight.ndim >= 2

    def forward(self, *_inputs: Any, **_named: Any) -> Any:
        """Raises `InvalidRequestError`: what is compiled runs, this does not."""
        raise InvalidRequestError(
            "artifacts", "this part of the model was not compiled; open the model without artifacts"
        )
