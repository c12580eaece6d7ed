"""The contrastive pair of CLIP and Chinese CLIP: text tower and image tower, in one space."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.config import ImageTowerConfig
from rapid_diffusion.text.encoder import KnowledgeTextEncoder


class ContrastivePair(nn.Module):
    """Two towers with a projection each; features are unit vectors."""

    def __init__(self, text: KnowledgeTextEncoder, config: ImageTowerConfig) -> None:
        super().__init__()
        self.text = text
        self.image = _build_image_tower(config)
        self.text_projection = nn.Linear(text.width, config.embedding, bias=False)
        self.image_projection = nn.Linear(config.widths[-1], config.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image_features(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> (B, F)."""
        pooled = self.image(images).pooler_output.flatten(1)
        return functional.normalize(self.image_projection(pooled), dim=-1)

    def text_features(self, hidden: Tensor) -> Tensor:
        """hidden states (B, L, D) -> (B, F), from the CLS token as in Chinese CLIP."""
        return functional.normalize(self.text_projection(hidden[:, 0]), dim=-1)

    def loss(self, images: Tensor, hidden: Tensor, same: Tensor) -> Tensor:
        """Symmetric cross entropy over a batch.

        `same` (B, B) bool marks texts that describe picture i as well as its own does, such as
        two captions of one picture: they count neither for nor against.
        """
        return self.compare(self.image_features(images), self.text_features(hidden), same)

    def compare(self, images: Tensor, texts: Tensor, same: Tensor) -> Tensor:
        """The loss of features (B, F) that are already there."""
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        logits = scale * images @ texts.T
        diagonal = torch.eye(len(images), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~diagonal, -torch.inf)
        target = torch.arange(len(images), device=logits.device)
        return 0.5 * (
            functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        )


def _build_image_tower(config: ImageTowerConfig) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(
        ResNetConfig(
            embedding_size=config.widths[0],
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            layer_type="basic",
        )
    )
