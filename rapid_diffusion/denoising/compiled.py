"""Networks compiled for the sizes they meet (TorchInductor); needs a C++ compiler on the machine.

Compiling takes about a minute, once for each batch size, and pays in a service or a long batch.
"""

from torch import nn

_FOLDED = "weights_are_folded"


def compile_network(network: nn.Module, *, freeze: bool = True) -> None:
    """Compile `network` in place; its weights and its class stay what they are.

    Frozen, its weights are folded in and laid out for the processor: weights that change afterwards
    are not seen, so adapters refuse such a network. With `freeze=False` weights stay inputs of the
    compiled code, and an adapter is switched without compiling again.
    """
    network.compile(dynamic=False, options={"freezing": freeze})
    setattr(network, _FOLDED, freeze)


def has_folded_weights(network: nn.Module) -> bool:
    """Whether `network` was compiled in a way that does not see its weights change."""
    return bool(getattr(network, _FOLDED, False))
