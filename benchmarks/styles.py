"""Which style a picture is in: a linear probe on textures. Used by `finetune.py`."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.denoising.schedules import TIMESTEPS
from rapid_diffusion.images.convert import pixels_to_unit

FOLDS = 5
#: On the squared weights of the probe.
PENALTY = 0.005
#: How much noise a picture is restored from: between these times, 0 = picture and 1 = noise.
RESTORED_FROM = (0.3, 0.8)


@torch.inference_mode()
def encode(pipeline: RapidDiffusionPipeline, pictures: np.ndarray) -> Tensor:
    """The latents (N, C, h, w) of uint8 pictures (N, H, W, 3)."""
    starts = range(0, len(pictures), 32)
    units = (pixels_to_unit(np.array(pictures[start : start + 32])) for start in starts)
    return torch.cat([pipeline.model.autoencoder.encode(2 * unit - 1) for unit in units])


@torch.inference_mode()
def restore(pipeline: RapidDiffusionPipeline, latents: Tensor) -> Tensor:
    """What the base makes of the latents with noise on them, in one step and told nothing."""
    generator = torch.Generator().manual_seed(0)
    low, high = RESTORED_FROM
    times = low + (high - low) * torch.rand(len(latents), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    nothing = pipeline.encode_text(pipeline.tokenize([""]))
    restored = []
    parts = zip(latents.split(32), noise.split(32), times.split(32), strict=True)
    for clean, added, moments in parts:
        at = moments[:, None, None, None]
        noisy = (1 - at) * clean + at * added
        hidden = nothing.hidden.expand(len(clean), -1, -1)
        mask = nothing.mask.expand(len(clean), -1)
        velocity = pipeline.model.denoiser(noisy, TIMESTEPS * moments, hidden, mask)
        restored.append(noisy - at * velocity)
    return torch.cat(restored)


def finish(pipeline: RapidDiffusionPipeline, latents: Tensor) -> Tensor:
    """Pictures in [0, 1], as large as the pipeline's."""
    upscale = int(pipeline.default_parameters["upscale"])
    return pipeline.enlarge(pipeline.decode(latents), upscale)


class StyleProbe:
    """Logistic regression on features (N, F); fold k was fitted without the concepts of fold k."""

    def __init__(self, features: Tensor, styles: list[str], concepts: list[str]) -> None:
        self.names = sorted(set(styles))
        self.features, self.concepts = features, concepts
        self.styles = styles
        labels = torch.tensor([self.names.index(style) for style in styles])
        fold = torch.tensor([fold_of(concept) for concept in concepts])
        # Channels are of very different sizes; together the numbers are about ten long.
        deviation = features.std(0) + 1e-6
        self.mean, self.scale = features.mean(0), deviation * features.shape[1] ** 0.5 / 10
        self.probes = [self._fit(labels, fold != held) for held in range(FOLDS)]

    def name(self, features: Tensor, concepts: Sequence[str]) -> list[str]:
        """The style of each picture, by the probe that never saw its concept."""
        inputs = self._scaled(features)
        return [
            self.names[int(self.probes[fold_of(concept)](row[None]).argmax())]
            for row, concept in zip(inputs, concepts, strict=True)
        ]

    def on_real(self, style: str) -> dict[str, Any]:
        """How often the probe is right on real pictures: all of them, and those of `style`."""
        right = [
            a == b
            for a, b in zip(self.name(self.features, self.concepts), self.styles, strict=True)
        ]
        own = [hit for hit, other in zip(right, self.styles, strict=True) if other == style]
        return {
            "pictures": len(right),
            "right": share_of(right),
            f"right_on_{style}": share_of(own),
        }

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale

    def _fit(self, labels: Tensor, chosen: Tensor) -> torch.nn.Linear:
        probe = torch.nn.Linear(self.features.shape[1], len(self.names))
        torch.nn.init.zeros_(probe.weight)  # convex: nothing is left to chance
        torch.nn.init.zeros_(probe.bias)
        inputs, wanted = self._scaled(self.features)[chosen], labels[chosen]
        # every style counts the same, however many pictures it has
        weights = 1 / torch.bincount(wanted, minlength=len(self.names)).clamp(min=1)
        optimizer = torch.optim.LBFGS(
            probe.parameters(), max_iter=200, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = functional.cross_entropy(probe(inputs), wanted, weights)
            value = value + PENALTY / 2 * probe.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        return probe.requires_grad_(False)


def fold_of(concept: str) -> int:
    return int(hashlib.sha256(concept.encode()).hexdigest(), 16) % FOLDS


def share_of(hits: Sequence[bool]) -> float:
    return round(sum(hits) / max(1, len(hits)), 4)
