"""3x3 convolutions with fewer products, on a processor: Winograd's way (arXiv 1509.09308).

Of a square of m x m results, a pair of channels takes (m + 2)² products instead of 9 m²: with m = 2
that is 2.25 times fewer, with m = 4 four times. The rest is two small matrices that are laid on
each square of inputs and results. Weights get that form once, before they are folded in.
"""

import copy
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Channels below which the small matrices cost more than they save (docs/engine.md, "Compiled").
LEAST_CHANNELS = 256
#: For each m: the inputs' matrix, the weights' and the results', (m+2, m+2), (m+2, 3), (m, m+2).
_MATRICES = {
    2: (
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: (
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}


class WinogradConv2d(nn.Module):
    """A `Conv2d` of 3x3 with padding 1, for one size of pictures: that of its first call.

    That call brings the weights into their form, so it must not be one that is compiled. Other
    sizes go the direct way. Differs from it by rounding: 1e-6 of the results' size with m = 2,
    4e-6 with m = 4.
    """

    inputs: Tensor
    weights: Tensor
    results: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.side = 0

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, h, w) -> (B, K, h, w), both best with channels last."""
        side = _side(*images.shape[2:])
        if side and not self.side and not torch.compiler.is_compiling():
            self._prepare(side)
        if not side or side != self.side:
            return functional.conv2d(images, self.weight, self.bias, padding=1)
        batch, channels, height, width = images.shape
        patch, down, across = side + 2, height // side, width // side
        padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        squares = padded.unfold(1, patch, side).unfold(2, patch, side)
        places = squares.permute(4, 5, 0, 1, 2, 3).reshape(patch**2, -1)
        products = torch.bmm((self.inputs @ places).view(patch**2, -1, channels), self.weights)
        output = self.results @ products.view(patch**2, -1)
        output = output.view(side, side, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        output = output.reshape(batch, height, width, -1)
        return (output if self.bias is None else output + self.bias).permute(0, 3, 1, 2)

    def _prepare(self, side: int) -> None:
        """inputs ((m+2)², (m+2)²), weights ((m+2)², C, K), results (m², (m+2)²)."""
        inputs, kernel, results = (
            torch.tensor(matrix, dtype=torch.float64) for matrix in _MATRICES[side]
        )
        with torch.no_grad():
            weights = torch.einsum("ij,kcjl,ml->imck", kernel, self.weight.double(), kernel)
        tensors = {"inputs": torch.kron(inputs, inputs), "results": torch.kron(results, results)}
        for name, tensor in (tensors | {"weights": weights.flatten(0, 1)}).items():
            self.register_buffer(name, tensor.float().contiguous(), persistent=False)
        self.side = side


def _side(height: int, width: int) -> int:
    """The squares' side m that was fastest for pictures of this size; 0: none fits."""
    for side, least in ((4, 16), (2, 8)):
        if min(height, width) >= least and height % side == width % side == 0:
            return side
    return 0


def with_fewer_products(network: nn.Module) -> nn.Module:
    """A copy with the same weights, large 3x3 convolutions going Winograd's way; to be called once.

    The network itself where there are none, or they run in another format or on another device.
    """
    if not any(_gains(module) for module in network.modules()):
        return network
    tensors = (*network.parameters(), *network.buffers())
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for parent in list(copied.modules()):
        for name, module in list(parent.named_children()):
            if _gains(module):
                setattr(parent, name, WinogradConv2d(module))
    return copied


def _gains(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if not isinstance(module, nn.Conv2d):
        return False
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    return (
        sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
        and module.padding_mode == "zeros"
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    )
