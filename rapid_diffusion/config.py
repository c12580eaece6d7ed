"""Sizes, as frozen dataclasses."""

from dataclasses import dataclass

#: The most rows that a shared engine may be asked to have in a call of the UNet.
MOST_ROWS = 256


@dataclass(frozen=True)
class TextConfig:
    """A BERT tower as Chinese CLIP uses it, with entity vectors at its input."""

    vocabulary: int
    width: int = 192
    layers: int = 3
    heads: int = 4
    max_length: int = 32
    entity_dimension: int = 128
    padding_id: int = 0


@dataclass(frozen=True)
class ImageTowerConfig:
    """The residual image tower of the contrastive pair.

    It is shown pictures of `side` pixels at most (0: as they are); larger ones are shrunk to it.
    """

    widths: tuple[int, ...] = (48, 96, 160, 256)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    embedding: int = 128
    side: int = 0


@dataclass(frozen=True)
class DenoiserConfig:
    """The UNet: `attends[i]` says whether level i looks at the text.

    `draft` is the width of the network that drafts the latents from the sentence (0: none),
    `draft_rank` that of its last layer, which is the largest by far (0: as `draft`); for
    `draft_cosines` and `draft_spread` see `DraftConfig`.
    """

    sample_size: int = 16
    channels: int = 16
    widths: tuple[int, ...] = (64, 128, 256)
    attends: tuple[bool, ...] = (False, True, True)
    layers: int = 1
    head_width: int = 32
    text_width: int = 192
    norm_groups: int = 16
    draft: int = 0
    draft_rank: int = 0
    draft_cosines: int = 0
    draft_spread: bool = False


@dataclass(frozen=True)
class DraftConfig:
    """The network that drafts a sentence's latents (channels, size, size).

    All drafts lie in a space of `rank` dimensions (0: of `hidden`), which `cosines` random features
    of the last hidden layer lead to as well. `spread`: how far pictures lie from it is learned too,
    and the UNet gives what it knows beyond the best guess from that.
    """

    channels: int
    size: int
    text_width: int
    hidden: int = 1024
    layers: int = 3
    dropout: float = 0.2
    rank: int = 0
    cosines: int = 0
    spread: bool = False
