"""Networks compiled for the sizes they meet (TorchInductor); needs a C++ compiler on the machine.

Compiling takes about a minute, once for each batch size, and pays in a service or a long batch.
"""

from typing import Any

import torch
from torch import nn


def compile_network(network: nn.Module) -> None:
    """Compile `network.forward` in place; its weights and its class stay what they are.

    "freezing" folds the weights in and lays them out for the processor, so it holds for inference
    only: weights that change afterwards are not seen. Both the tracer and the code generator look
    at the global setting, so `torch.compile(options=...)` would not reach the first of them and
    nothing would be laid out; therefore it is set around every call.
    """
    import torch._inductor.config as inductor

    compiled = torch.compile(network.forward, dynamic=False)

    def frozen(*inputs: Any, **named: Any) -> Any:
        with inductor.patch(freezing=True):
            return compiled(*inputs, **named)

    network.forward = frozen
