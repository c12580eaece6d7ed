"""OpenVINO's part of `speed.py`, for a Python that has OpenVINO and this package.

Converts the network of `diffusers`, says its version, and then answers each line of its input with
the processor seconds of one call.
"""

import sys
import time
from typing import Any

import openvino
import torch
from speed_setups import built, caller, inputs_of
from torch import Tensor, nn


class Called(nn.Module):
    """The network as a module of tensors only, which is what the converter takes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return caller(self.network)(*inputs)


def main() -> None:
    preset, rows, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    network, denoiser, length = built(preset, torch.device("cpu"))
    inputs = inputs_of(denoiser, rows, length, torch.device("cpu"))
    with torch.inference_mode():
        wanted = caller(network)(*inputs)
        model = openvino.convert_model(Called(network).eval(), example_input=tuple(inputs))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.compile_model(model, "CPU", settings)
    given = [tensor.numpy() for tensor in inputs]
    got = torch.from_numpy(compiled(given)[0])
    error = float((got - wanted).norm() / wanted.norm())
    if not error < 1e-3:
        raise SystemExit(f"OpenVINO's output is off by {error}")
    print(f"openvino {openvino.__version__.split('-')[0]}", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        compiled(given)
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
