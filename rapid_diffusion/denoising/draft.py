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

    `log_spread` (C,), where the config asks for it, is the logarithm of the deviation of pictures
    from their drafts, channel by channel.
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
        self.log_spread = nn.Parameter(torch.zeros(config.channels)) if config.spread else None
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def start_from(self, mean: Tensor) -> None:
        """Begin with one draft for all sentences, the mean latents (C, size, size)."""
        self.output.bias.data.copy_(mean.flatten())

    def forward(self, sentence: Tensor) -> Tensor:
        """The draft of each sentence."""
        size = self.config.size
        drafted: Tensor = self.output(self.narrow(self.layers(sentence)))
        return drafted.reshape(-1, self.config.channels, size, size)

    def loss(self, sentence: Tensor, latents: Tensor) -> Tensor:
        """The squared error, to which the fit of the spread is added without a say in the draft."""
        error = (self(sentence).float() - latents).square()
        if self.log_spread is None:
            return error.mean()
        in_spreads = error.detach().mean((0, 2, 3)) * (-2 * self.log_spread).exp()
        return error.mean() + (in_spreads / 2 + self.log_spread).mean()
