"""A batch in parts: one for each process, and again one for each step of accumulation.

Every part draws the randomness of the whole batch and takes its rows of it, so that the parts
together are the whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rapid_diffusion.text.tokens import Tokens


@dataclass(frozen=True)
class Part:
    """Part `index` of `count` equal ones."""

    index: int = 0
    count: int = 1

    def rows(self, batch: int) -> slice:
        """The rows of this part in a batch; `count` must divide `batch`."""
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Part()


def rows_of(tokens: Tokens, rows: slice) -> Tokens:
    """Some of the sentences of a batch."""
    return Tokens(
        tokens.ids[rows], tokens.mask[rows], tokens.entity_vectors[rows], tokens.truncated[rows]
    )


@contextmanager
def dropout_of(module: nn.Module, part: Part) -> Iterator[None]:
    """Let each `nn.Dropout` in `module` draw for the whole batch, and drop what falls to `part`.

    With torch seeded alike for each part, the parts lose what the whole batch would.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Dropout)]
    if part.count > 1:
        for layer in layers:
            layer.forward = partial(_dropped, layer, part)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _dropped(layer: nn.Dropout, part: Part, given: Tensor) -> Tensor:
    if not layer.training or not 0 < layer.p < 1:
        return layer.__class__.forward(layer, given)
    whole = torch.empty(len(given) * part.count, *given.shape[1:], device=given.device)
    kept = whole.bernoulli_(1 - layer.p)[part.rows(len(whole))]
    return given * (kept / (1 - layer.p)).to(given.dtype)


#: `diffusers`, `transformers`, and what `transformers` called it before.
_SWITCHES = (
    "enable_gradient_checkpointing",
    "activation_checkpointing_enable",
    "gradient_checkpointing_enable",
)


def checkpoint_activations(module: nn.Module) -> bool:
    """Compute activations anew on the way back in every network in `module` that knows how.

    Says whether there is one: the UNet of `diffusers`, the text towers of `transformers`.
    """
    able = [network for network in module.modules() if _can_checkpoint(network)]
    for network in able:
        switches = [getattr(network, name) for name in _SWITCHES if hasattr(network, name)]
        switches[0]()
    return bool(able)


def _can_checkpoint(network: nn.Module) -> bool:
    # `diffusers` and `transformers` say so under different names.
    says = ("_supports_gradient_checkpointing", "supports_gradient_checkpointing")
    return any(getattr(network, name, False) for name in says)
