"""Networks compiled for the sizes they meet (TorchInductor); needs a C++ compiler on the machine.

Compiling takes about a minute, once for each batch size, and pays in a service or a long batch.
"""

from torch import nn


def compile_network(network: nn.Module) -> None:
    """Compile `network` in place; its weights and its class stay what they are.

    "freezing" folds the weights in and lays them out for the processor, so it holds for inference
    only: weights that change afterwards are not seen.
    """
    network.compile(dynamic=False, options={"freezing": True})
