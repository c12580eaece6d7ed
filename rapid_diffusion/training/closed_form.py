"""The wide end of a draft, in closed form: ridge regression upon what its hidden layers found.

By steps, three layers of a thousand keep the pictures of some hundred things and blur those of a
thousand. Random cosines of the last hidden layer (`RandomCosines`) are as many places to keep
something in as one likes, and what is best kept there is the solution of one linear system.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rapid_diffusion.denoising.draft import SentenceDraft
from rapid_diffusion.text.encoder import KnowledgeTextEncoder
from rapid_diffusion.training.checkpoint import CHECKPOINT, averaged_weights
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.latents import AnyExamples, FixedLatents, StreamedLatents
from rapid_diffusion.training.stages import encode_short

logger = logging.getLogger(__name__)

#: Of a feature's square, added to the diagonal of the system.
RIDGE = 1e-3
#: More of them change little, and each costs the square of the features.
MOST_CAPTIONS = 100_000
#: Captions whose products are added at once: the sums are large, and each time written anew.
_AT_ONCE = 4096


@dataclass(frozen=True)
class _Seen:
    """What was seen of hidden layers and latents, batch by batch; it may be looked at again."""

    draft: SentenceDraft
    encoder: KnowledgeTextEncoder
    latents: FixedLatents | StreamedLatents
    examples: AnyExamples
    loop: LoopConfig

    @property
    def steps(self) -> int:
        """As many batches as the hidden layers learned from, up to `MOST_CAPTIONS`."""
        return min(self.loop.steps, -(-MOST_CAPTIONS // self.loop.batch))

    def zeros(self, *sizes: int) -> Tensor:
        """Room for a sum, on the draft's device."""
        return torch.zeros(sizes, device=self.draft.output.weight.device)

    def pictures(self) -> Iterator[Tensor]:
        """The latents (B, C h w) of all batches, some batches at once."""
        for steps in self._blocks():
            yield torch.cat([self._pictures(step) for step in steps])

    def captioned_pictures(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The last hidden layer (B, H) of captions, beside the latents (B, C h w)."""
        for steps in self._blocks():
            hidden = torch.cat([self._hidden(step) for step in steps])
            yield hidden, torch.cat([self._pictures(step) for step in steps])

    def _blocks(self) -> Iterator[range]:
        at_once = max(1, _AT_ONCE // self.loop.batch)
        for first in range(0, self.steps, at_once):
            yield range(first, min(first + at_once, self.steps))

    def _indices(self, step: int) -> list[int]:
        return self.examples.indices(step, self.loop.batch, self.loop.seed)

    def _pictures(self, step: int) -> Tensor:
        device = self.draft.output.weight.device
        return self.latents[self._indices(step)].to(device).flatten(1)

    def _hidden(self, step: int) -> Tensor:
        generator = step_generator(self.loop.seed, step)
        tokens = self.examples.sentences(self._indices(step), generator)
        return self.draft.layers(encode_short(self.encoder, tokens).hidden[:, 0])


def is_fitted_to(narrow: Mapping[str, Tensor], folder: Path) -> bool:
    """Whether `folder` holds a wide draft with the hidden layers of this narrow one."""
    if not (folder / CHECKPOINT).is_file():
        return False
    fitted = averaged_weights(folder)
    layers = [name for name in narrow if name.startswith("layers.")]
    return all(torch.equal(fitted[name], narrow[name]) for name in layers)


@torch.no_grad()
def fit_wide_end(
    draft: SentenceDraft,
    encoder: KnowledgeTextEncoder,
    latents: FixedLatents | StreamedLatents,
    examples: AnyExamples,
    loop: LoopConfig,
) -> None:
    """Solve for what follows the hidden layers of a draft; the log says how much it explains.

    It looks at the first batches that the hidden layers learned from. Drafts lie in the space of
    the latents' first principal components then, as many as `rank` says.
    """
    seen = _Seen(draft.eval(), encoder.eval(), latents, examples, loop)
    first, _ = next(seen.captioned_pictures())
    draft.cosines.length.copy_(torch.pdist(first.float()).median())
    mean, basis, variance = _principal_components(seen, draft.config.rank)
    products, targets = _products(seen, mean, basis)
    weight = _ridge(products, targets)
    explained = (weight * (2 * targets - products @ weight)).sum() / variance
    draft.set_end(weight.T, basis, mean)
    logger.info("the draft explains %.3f of the variance of the latents", explained)


def _principal_components(seen: _Seen, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of the latents (L,), `rank` directions (L, R), and their summed square distance."""
    numbers = seen.draft.output.out_features
    total, products = seen.zeros(numbers), seen.zeros(numbers, numbers)
    count = 0
    for latents in seen.pictures():
        total += latents.sum(0)
        products.addmm_(latents.T, latents)
        count += len(latents)
    mean = total / count
    around = products - count * mean[:, None] * mean
    _, directions = torch.linalg.eigh(around)
    return mean, directions[:, -rank:], around.trace()


def _products(seen: _Seen, mean: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over all examples: features by features (F, F), features by components (F, R)."""
    config = seen.draft.config
    features = config.hidden + config.cosines
    products, targets = seen.zeros(features, features), seen.zeros(features, config.rank)
    for hidden, latents in seen.captioned_pictures():
        found = torch.cat([hidden, seen.draft.cosines(hidden)], 1)
        products.addmm_(found.T, found)
        targets.addmm_(found.T, (latents - mean) @ basis)
    return products, targets


def _ridge(products: Tensor, targets: Tensor) -> Tensor:
    """The weights (F, R) of least squares, each feature a little noisy: `RIDGE` of its square."""
    noisy = products.double()
    noisy.diagonal().mul_(1 + RIDGE).add_(torch.finfo(torch.float32).tiny)
    solved = torch.cholesky_solve(targets.double(), torch.linalg.cholesky(noisy))
    return solved.float()
