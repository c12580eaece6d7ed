"""Do the sizes of a configuration fit each other and the pictures? Asked before anything learns."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.training.beginnings import known_upscaler
from rapid_diffusion.training.config import DataConfig, TrainingConfig
from rapid_diffusion.training.latents import AnyExamples

#: A key, what it says, what it has to say (a phrase where no one value will do), and why.
Wish = tuple[str, object, object, str]


def check_draft_folder(said: DataConfig) -> None:
    """Before the stages that come first, which take hours."""
    if said.shards:
        raise InvalidRequestError(
            "data.draft_folder", "goes with a prepared `folder`, not with `shards`; leave one out"
        )
    rows = Path(said.draft_folder) / "metadata.jsonl"
    if not rows.is_file():
        raise CheckpointError(rows, "no such file; data.draft_folder names a prepared folder")


def check_sizes(config: TrainingConfig, examples: AnyExamples) -> None:
    """Raise `InvalidRequestError` naming the first key that does not fit, and what would."""
    wishes = chain(
        _of_networks(config),
        _of_draft(config),
        _of_decoder(config),
        _of_pictures(config, examples),
    )
    for key, said, wanted, why in wishes:
        if said != wanted:
            raise InvalidRequestError(key, f"{said}; allowed: {wanted}, {why}")


def _of_networks(config: TrainingConfig) -> Iterator[Wish]:
    denoiser, channels = config.denoiser, config.autoencoder.channels
    most, groups = 3 * config.autoencoder.patch**2, denoiser.norm_groups
    if channels > most:
        yield "autoencoder.channels", channels, f"1 to {most}", "the numbers of a patch"
    yield "denoiser.channels", denoiser.channels, channels, "as autoencoder.channels"
    yield "denoiser.text_width", denoiser.text_width, config.text.width, "as text.width"
    if len(denoiser.widths) != len(denoiser.attends):
        count = f"{len(denoiser.widths)} of true or false"
        yield "denoiser.attends", list(denoiser.attends), count, "one for each of denoiser.widths"
    if any(width % groups for width in denoiser.widths):
        multiples = f"multiples of {groups}"
        yield "denoiser.widths", list(denoiser.widths), multiples, "denoiser.norm_groups"
    if config.image_tower.side < 0:
        yield "image_tower.side", config.image_tower.side, "0 (as they are) or above", "in pixels"
    if config.model.upscale != 1:
        scale = config.upscaler.scale
        yield "model.upscale", config.model.upscale, scale, "as upscaler.scale, or 1"


def _of_draft(config: TrainingConfig) -> Iterator[Wish]:
    said = config.denoiser
    if not 0 <= said.draft_rank <= said.draft:
        yield "denoiser.draft_rank", said.draft_rank, f"0 to {said.draft}", "denoiser.draft"
    if said.draft_spread and not said.draft:
        yield "denoiser.draft_spread", "true", "false", "as denoiser.draft = 0 makes no draft"
    if not said.draft_cosines:
        return
    numbers = said.channels * said.sample_size**2
    if not 0 < said.draft_rank <= numbers:
        why = "as denoiser.draft_cosines wants a last layer of that rank"
        yield "denoiser.draft_rank", said.draft_rank, f"1 to {min(said.draft, numbers)}", why
    if said.draft_spread:
        why = "as denoiser.draft_cosines makes another draft than the spread is of"
        yield "denoiser.draft_spread", "true", "false", why


def _of_decoder(config: TrainingConfig) -> Iterator[Wish]:
    said, start = config.autoencoder, config.data.decoder_from
    if not start:
        return
    known, why = known_upscaler(start).config, f"as data.decoder_from, {start}"
    compact = "a network of SRVGGNetCompact"
    if known.architecture != "SRVGGNetCompact":
        yield "data.decoder_from", f"{start}, {known.architecture}", compact, "for a decoder"
    if said.shrink == 1 or known.scale % said.shrink:
        divisors = [n for n in range(2, known.scale + 1) if known.scale % n == 0]
        yield "autoencoder.shrink", said.shrink, f"one of {divisors}", why
    yield "autoencoder.decoder_width", said.decoder_width, known.num_feat, why
    yield "autoencoder.decoder_layers", said.decoder_layers, known.num_conv, why


def _of_pictures(config: TrainingConfig, examples: AnyExamples) -> Iterator[Wish]:
    side, said = examples.side, config.autoencoder
    if side % said.factor:
        allowed = f"multiples of {said.factor}"
        yield "data.pictures", f"{side} px", allowed, "for `data prepare --size`"
    size = config.denoiser.sample_size
    why = f"{side} px / autoencoder.patch {said.patch}"
    why += f" / autoencoder.shrink {said.shrink}" if said.shrink > 1 else ""
    yield "denoiser.sample_size", size, side // said.factor, why
    try:
        large = examples.large_side
    except CheckpointError:
        return  # the stage that needs them says so
    scale = config.upscaler.scale
    wanted = large / side if large % side else large // side
    yield "upscaler.scale", scale, wanted, f"large pictures of {large} px / {side} px"
