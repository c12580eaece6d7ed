"""A small network drafts the latents that a sentence leads one to expect, for the UNet to refine.

Convolutions know no place but the borders, and in pure noise there is nothing to hold on to. The
mean of all pictures that fit a sentence is blurred, but says what is where and in which colour; a
regression learns it in minutes, at a thirtieth of what the UNet costs. Its channels
join the noisy latents at the UNet's input.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rapid_diffusion.config import DraftConfig


class RandomCosines(nn.Module):
    """sqrt(2) cos(W x / length + b) of x (B, D) -> (B, N), the same on every machine.

    The products of two such rows approach exp(-|x - y|² / (2 length²)) (Rahimi and Recht, 2007), so
    that a linear layer upon enough of them learns what a smooth function of x may be, in closed
    form. W and b come out of a fixed stream of random bits and are in no file; a weight is the sum
    of eight bytes of it, centred, which is normal to the eye and exact in float32.
    """

    weight: Tensor
    phase: Tensor

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        bits = np.random.Philox(0).random_raw((count, width + 1))
        sums = bits[:, :width].copy().view(np.uint8).reshape(count, width, 8).sum(2, np.int32)
        weight = torch.from_numpy(sums - 8 * 255 // 2).float() / math.sqrt(8 * (256**2 - 1) / 12)
        phase = torch.from_numpy((bits[:, width] >> np.uint64(40)).astype(np.float32))
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("phase", phase * (2 * math.pi / 2**24), persistent=False)
        self.length = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, D) -> (B, N), in the precision of the weights."""
        return math.sqrt(2) * torch.cos(
            nn.functional.linear(x / self.length, self.weight) + self.phase
        )


class SentenceDraft(nn.Module):
    """The CLS state (B, D) -> expected latents (B, C, size, size).

    Dropout stays on while the UNet learns: it then meets drafts about as rough as those of
    sentences that were never seen.

    With `cosines` in the config, `wide` adds what random features of the last hidden layer say; it
    is fitted in closed form (`training/closed_form.py`), since three hidden layers that learn by
    steps do not keep more than some thousand pictures.

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
        if config.cosines:
            self.cosines = RandomCosines(config.hidden, config.cosines)
            self.wide = nn.Linear(config.cosines, rank, bias=False)
            nn.init.zeros_(self.wide.weight)
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

    def train(self, mode: bool = True) -> "SentenceDraft":
        """Dropout is left to drafts without `wide`, which fits hidden layers as they are."""
        super().train(mode and not self.config.cosines)
        return self

    def without_wide_end(self) -> "SentenceDraft":
        """What the steps of a training teach: the same layers without `wide`, if there is one."""
        if not self.config.cosines:
            return self
        narrow = SentenceDraft(replace(self.config, cosines=0))
        narrow.load_state_dict({name: self.state_dict()[name] for name in narrow.state_dict()})
        return narrow

    def set_end(self, weight: Tensor, directions: Tensor, mean: Tensor) -> None:
        """Let drafts be mean + directions · weight · (last hidden layer, its cosines).

        weight (R, hidden + cosines), directions (C size², R), mean (C size²).
        """
        hidden = self.config.hidden
        self.narrow.load_state_dict({"weight": weight[:, :hidden]})
        self.wide.load_state_dict({"weight": weight[:, hidden:]})
        self.output.load_state_dict({"weight": directions, "bias": mean})

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
        narrow = self.narrow(found)
        if self.config.cosines:
            narrow = narrow + self.wide(self.cosines(found))
        drafted: Tensor = self.output(narrow)
        return drafted.reshape(-1, self.config.channels, size, size)

    def _log_spread(self, places: Tensor) -> Tensor:
        return self.log_spread.float()[:, None, None] + places.float()

    def _places(self, found: Tensor) -> Tensor:
        size = self.config.size
        told: Tensor = self.places(found)
        return told.reshape(-1, 1, size, size)
