"""A small network drafts the latents that a sentence leads one to expect, for the UNet to refine.

Convolutions know no place but the borders, and in pure noise there is nothing to hold on to. The
mean of all pictures that fit a sentence is blurred, but says what is where and in which colour; a
regression learns it in minutes, at a thirtieth of what the UNet costs. Its channels
join the noisy latents at the UNet's input.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from rapid_diffusion.config import DraftConfig


class SentenceDraft(nn.Module):
    """The CLS state (B, D) -> expected latents (B, C, size, size).

    Dropout stays on while the UNet learns: it then meets drafts about as rough as those of
    sentences that were never seen.

    With `spread` in the config it also says how far pictures lie from the draft: a deviation for
    each latent, the product of one for its channel (`log_spread`, C logarithms) and one for its
    place, which depends on the sentence and whose logarithm is a last channel of the draft.
    """

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.text_width] + [config.hidden] * config.layers
        layers: list[nn.Module] = []
        for taken, given in pairwise(widths):
            layers += [nn.Linear(taken, given), nn.SiLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)
        rank = config.rank
        self.narrow = nn.Linear(config.hidden, rank, bias=False) if rank else nn.Identity()
        self.output = nn.Linear(rank or config.hidden, config.channels * config.size**2)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if config.spread:
            self.log_spread = nn.Parameter(torch.zeros(config.channels))
            self.places = nn.Linear(config.hidden, config.size**2)
            nn.init.zeros_(self.places.weight)
            nn.init.zeros_(self.places.bias)

    @property
    def channels(self) -> int:
        """How many the draft has: those of the latents, and one for the spread if it is told."""
        return self.config.channels + self.config.spread

    def start_from(self, mean: Tensor) -> None:
        """Begin with one draft for all sentences, the mean latents (C, size, size)."""
        self.output.bias.data.copy_(mean.flatten())

    def forward(self, sentence: Tensor) -> Tensor:
        """The draft of each sentence, (B, `channels`, size, size)."""
        found = self.layers(sentence)
        mean = self._mean(found)
        return torch.cat([mean, self._places(found)], 1) if self.config.spread else mean

    def mean(self, sentence: Tensor) -> Tensor:
        """The expected latents (B, C, size, size) alone."""
        return self._mean(self.layers(sentence))

    def split(self, drafts: Tensor) -> tuple[Tensor, Tensor]:
        """Drafts with a spread -> expected latents and logarithms of their deviations, float32.

        Both are (B, C, size, size).
        """
        return drafts[:, :-1].float(), self._log_spread(drafts[:, -1:])

    def loss(self, sentence: Tensor, latents: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The squared error, to which the fit of the spread is added without a say in the draft.

        `latents` and `wanted` (B, C, size, size): the draft is to become `wanted`, by default the
        latents; the spread tells how far it is from the latents in either case.
        """
        found = self.layers(sentence)
        mean = self._mean(found).float()
        error = (mean - (latents if wanted is None else wanted)).square().mean()
        if not self.config.spread:
            return error
        log_spread = self._log_spread(self._places(found.detach()))
        in_spreads = (mean.detach() - latents).square() * (-2 * log_spread).exp()
        return error + (in_spreads / 2 + log_spread).mean()

    def _mean(self, found: Tensor) -> Tensor:
        size = self.config.size
        drafted: Tensor = self.output(self.narrow(found))
        return drafted.reshape(-1, self.config.channels, size, size)

    def _log_spread(self, places: Tensor) -> Tensor:
        return self.log_spread.float()[:, None, None] + places.float()

    def _places(self, found: Tensor) -> Tensor:
        size = self.config.size
        told: Tensor = self.places(found)
        return told.reshape(-1, 1, size, size)
