"""Networks compiled for the sizes they meet (TorchInductor); needs a C++ compiler on the machine.

Compiling takes about a minute, once for each batch size, and pays in a service or a long batch.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rapid_diffusion.denoising.winograd import with_fewer_products

_FOLDED = "weights_are_folded"


def compile_network(network: nn.Module, *, freeze: bool = True) -> None:
    """Compile `network.forward` in place; its weights and its class stay what they are.

    Frozen, its weights are folded in and laid out for the processor: weights that change afterwards
    are not seen, so adapters refuse such a network. With `freeze=False` weights stay inputs of the
    compiled code, and an adapter is switched without compiling again.
    """
    network.forward = _frozen(network) if freeze else torch.compile(network.forward, dynamic=False)
    setattr(network, _FOLDED, freeze)


def mark_folded(network: nn.Module) -> None:
    """Say that `network` calculates with weights of its own, as compiled ahead of time."""
    setattr(network, _FOLDED, True)


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy of `network` that calculates with its own weights and its own Python code."""
    rebuild = getattr(network, "rebuilt", None)
    if rebuild is not None:
        return rebuild()
    copied = copy.deepcopy(network)
    # What was compiled stands before the class's own, and is of the weights it was compiled with.
    copied.__dict__.pop("forward", None)
    return copied


def has_folded_weights(network: nn.Module) -> bool:
    """Whether `network` was compiled in a way that does not see its weights change."""
    return bool(getattr(network, _FOLDED, False))


def _frozen(network: nn.Module) -> Callable[..., Any]:
    """`network` with its weights folded in, compiled at its first call.

    The setting stands around every call: the tracer and the code generator both look at the global
    one. As an option of `torch.compile` it would not reach the tracer, and nothing be laid out.
    """
    source = with_fewer_products(network)
    plain, compiled = source.forward, torch.compile(source.forward, dynamic=False)
    prepared = source is network

    def call(*inputs: Any, **named: Any) -> Any:
        import torch._inductor.config as inductor

        nonlocal prepared
        if not prepared:
            plain(*inputs, **named)
            prepared = True
        with inductor.patch(freezing=True):
            return compiled(*inputs, **named)

    return call
