"""A compiled part as one CUDA graph: captured when it is loaded, replayed at every call.

A small UNet is hundreds of kernels, each shorter than its launch by the processor. The replay
launches all of them at once.
"""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: What `AOTIModelPackageLoader.boxed_run` is: it empties the list that it is given.
Run = Callable[[list[Tensor]], Sequence[Tensor]]

#: Calls before the capture: libraries choose their kernels and allocate in the first ones.
WARM_UP = 3


def captured(run: Run, examples: Sequence[Tensor]) -> Run:
    """`run` for inputs like `examples` (on one CUDA device), as a graph; for several threads.

    It keeps inputs and outputs of its own: what is given is copied in, what comes out is a copy.
    """
    inputs = [torch.zeros_like(example) for example in examples]
    device, lock = inputs[0].device, threading.Lock()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.inference_mode():
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                run(list(inputs))
        torch.cuda.current_stream(device).wait_stream(aside)
        with torch.cuda.graph(graph):
            outputs = list(run(list(inputs)))

    def replay(given: list[Tensor]) -> Sequence[Tensor]:
        with lock, torch.inference_mode():
            for own, tensor in zip(inputs, given, strict=True):
                own.copy_(tensor)
            graph.replay()
            return [output.clone() for output in outputs]

    return replay
