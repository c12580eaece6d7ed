"""Compiled networks: the same numbers, with the weights laid out for the processor."""

import shutil

import pytest
import torch
from torch import Tensor, nn

from rapid_diffusion.denoising.compiled import compile_network

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
@torch.inference_mode()
def test_a_compiled_network_folds_its_weights_in_and_says_what_it_said() -> None:
    network = nn.Conv2d(16, 16, 3, padding=1).eval()
    rows = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    eager: Tensor = network(rows)
    compile_network(network)
    assert torch.allclose(network(rows), eager, atol=1e-5)
    network.weight.zero_()
    assert torch.allclose(network(rows), eager, atol=1e-5)  # what was frozen is not seen
