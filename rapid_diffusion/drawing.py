"""The way of a sentence through the stations of a pipeline, and how pictures are scored."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rapid_diffusion.candidates import Candidates, choose, rounds
from rapid_diffusion.denoising.engine import StepCallback
from rapid_diffusion.errors import InvalidRequestError, NumericalError
from rapid_diffusion.images.convert import (
    Pixels,
    pillow_to_pixels,
    pixels_to_unit,
    unit_to_model,
    unit_to_pixels,
)
from rapid_diffusion.request import Request
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.entities import WeightedLink

if TYPE_CHECKING:
    from rapid_diffusion.pipeline import RapidDiffusionPipeline

#: Pictures drawn side by side; longer lists are drawn in batches of this many.
BATCH = 8

Images: TypeAlias = Tensor | Pixels | Sequence[Image.Image]
Links: TypeAlias = Mapping[str, Sequence[WeightedLink]]


@dataclass(frozen=True)
class Drawn:
    """Finished pixels (B, H, W, 3), what each sentence lost or has unknown, and the choices."""

    pixels: Pixels
    truncated: list[int | None]
    unknown: list[list[str]]
    candidates: list[Candidates]


def draw(
    pipe: "RapidDiffusionPipeline",
    request: Request,
    links: Links,
    num_candidates: int,
    timings: dict[str, float],
    callback: StepCallback | None,
) -> Drawn:
    """All rows of a request, batch by batch."""
    parts = [
        _draw_batch(pipe, batch, links, num_candidates, timings, callback)
        for batch in request.batches(BATCH)
    ]
    return Drawn(
        np.concatenate([part.pixels for part in parts]),
        [lost for part in parts for lost in part.truncated],
        [words for part in parts for words in part.unknown],
        [found for part in parts for found in part.candidates],
    )


@torch.inference_mode()
def _draw_batch(
    pipe: "RapidDiffusionPipeline",
    request: Request,
    links: Links,
    num_candidates: int,
    timings: dict[str, float],
    callback: StepCallback | None,
) -> Drawn:
    """Station by station; of several candidates only the chosen ones are enlarged.

    Pictures are decoded and enlarged one by one: in a batch their last bits would depend on its
    size, and so on how many were asked for.
    """
    with timed(timings, "text"):
        tokens = pipe.tokenize(request.prompts, [links[text] for text in request.prompts])
        states = pipe.encode_text(tokens)
        guidance = pipe.guidance(request, links)
    images, scores = [], []
    for turn in rounds(request, num_candidates):
        with timed(timings, "denoise"):
            latents = pipe.denoise(pipe.noise(turn), states, turn, guidance, callback)
        with timed(timings, "decode"):
            images.append(_alone(pipe.decode, latents))
        if num_candidates > 1 and pipe.model.pair is not None:
            with timed(timings, "score"):
                scores.append(cosines(pipe.model.pair, images[-1], states.hidden))
    best, candidates = choose(request, images, scores) if scores else (images[0], [])
    with timed(timings, "upscale"):
        large = _alone(lambda image: pipe.enlarge(image, request.upscale), best)
        pixels = unit_to_pixels(large)
    return Drawn(pixels, tokens.truncated, tokens.unknown, candidates)


def _alone(station: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """The station's results for rows (B, …), given to it one by one."""
    return torch.cat([station(row[None]) for row in rows])


def cosines(pair: ContrastivePair, images: Tensor, hidden: Tensor) -> Tensor:
    """images (B, 3, H, W) in [0, 1] and hidden states (B, L, D) -> (B,) in [-1, 1].

    Raises `NumericalError` for a NaN, which nothing can be chosen by.
    """
    pictures = _alone(pair.image_features, unit_to_model(images.float()))
    found = (pictures * pair.text_features(hidden)).sum(-1)
    if not bool(torch.isfinite(found).all()):
        raise NumericalError("the image tower gave NaN; check the weights in `image_tower`")
    return found


@torch.inference_mode()
def score(
    pipe: "RapidDiffusionPipeline",
    images: Images,
    prompts: str | Sequence[str],
    knowledge: bool = True,
) -> Tensor:
    """See `RapidDiffusionPipeline.score`."""
    pair = pipe.model.pair
    if pair is None:
        raise InvalidRequestError(
            "images",
            f"model {pipe.name!r} has no image tower to score with. Write its folder again with "
            "`rapid-diffusion train CONFIG --stage model`",
        )
    unit = _unit_images(images)
    request = pipe.request([prompts] * len(unit) if isinstance(prompts, str) else prompts, seed=0)
    if len(request.prompts) != len(unit):
        raise InvalidRequestError(
            "prompts", f"{len(request.prompts)} sentences for {len(unit)} pictures; give one each"
        )
    links = pipe.link(request, knowledge)
    found = []
    for start in range(0, len(unit), BATCH):
        rows = slice(start, start + BATCH)
        texts = request.prompts[rows]
        hidden = pipe.encode_text(pipe.tokenize(texts, [links[text] for text in texts])).hidden
        small = resized(unit[rows].to(pipe.device), pipe.sizes[0])
        found.append(cosines(pair, small, hidden).cpu())
    return torch.cat(found)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] at another (height, width), without aliasing."""
    if tuple(images.shape[2:]) == size:
        return images
    smooth = functional.interpolate(
        images, size, mode="bicubic", antialias=True, align_corners=False
    )
    return smooth.clamp(0, 1)


def _unit_images(images: Images) -> Tensor:
    if isinstance(images, Tensor):
        unit = images
    elif isinstance(images, np.ndarray):
        unit = pixels_to_unit(images) if images.ndim == 4 else torch.empty(0)
    else:
        unit = pixels_to_unit(pillow_to_pixels(images)) if images else torch.empty(0)
    if unit.ndim != 4 or unit.shape[1] != 3 or not len(unit):
        raise InvalidRequestError(
            "images",
            f"{type(images).__name__} of shape {tuple(getattr(images, 'shape', ()))}; a tensor "
            "(N, 3, H, W) in [0, 1], uint8 pixels (N, H, W, 3) or a list of pictures is wanted",
        )
    if not bool(((unit >= 0) & (unit <= 1)).all()):
        raise InvalidRequestError("images", "values outside 0 to 1 (or NaN); divide levels by 255")
    return unit


@contextmanager
def timed(timings: dict[str, float], station: str) -> Iterator[None]:
    """Add the seconds that the block takes to `timings[station]`."""
    started = time.perf_counter()
    yield
    timings[station] = timings.get(station, 0.0) + time.perf_counter() - started
