"""What comes of a call, and rows without end drawn batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from knowledge.linking import Link, Unlinked
from rapid_diffusion.candidates import Candidates
from rapid_diffusion.drawing import BATCH
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.request import MOST_IMAGES, MOST_SEED, check_integer, check_prompt, seeds_for

#: What a row may say for itself; rows that agree in it are drawn side by side.
OWN_PARAMETERS = ("adapter", "adapter_scale")


@dataclass(frozen=True)
class GenerationResult:
    """What came of one call, in the order of its prompts.

    images: PIL pictures, or for output_type="numpy" one uint8 array (N, H, W, 3);
    links: for each prompt, what the graph found in it, or the entities that were asked for (one
    that went to the sentence as a whole has start == end); seeds: one a picture;
    parameters: the effective ones; timings: seconds a station ("text", "denoise", "decode",
    "upscale", and "score" where pictures were chosen); truncated: for each prompt the first
    character that did not fit, or None; candidates: for num_candidates > 1 what each picture was
    chosen from (`seeds` are the chosen ones, so they and `parameters` draw the pictures again);
    unknown: for each prompt the characters (of other scripts, words) that mean nothing to the
    model: not in its vocabulary, and no entity stands for them; knowledge: the version of the
    graph, None without one; unlinked: for each prompt the names that mean no entity in it.
    """

    images: Any
    links: list[list[Link]]
    seeds: list[int]
    parameters: dict[str, Any]
    timings: dict[str, float]
    truncated: list[int | None]
    candidates: list[Candidates] = field(default_factory=list)
    unknown: list[list[str]] = field(default_factory=list)
    knowledge: str | None = None
    unlinked: list[list[Unlinked]] = field(default_factory=list)


def render_rows(
    draw: Callable[..., GenerationResult],
    rows: Iterable[str | Mapping[str, Any]],
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    num_images_per_prompt: int = 1,
    **parameters: Any,
) -> Iterator[GenerationResult]:
    """One result for each row; see `RapidDiffusionPipeline.render`."""
    count = check_integer("num_images_per_prompt", num_images_per_prompt, 1, MOST_IMAGES)
    if seed is not None:
        seed = check_integer("seed", seed, 0, MOST_SEED)
    numbered = enumerate(rows)
    while batch := list(islice(numbered, max(1, BATCH // count))):
        groups: dict[str, _Group] = {}
        for number, row in batch:
            item = _checked(number, row)
            first = item.get("seed")
            if first is None and seed is not None:
                first = seed + number * count
            own = {key: item[key] for key in OWN_PARAMETERS if item.get(key) is not None}
            group = groups.setdefault(repr(own), _Group(own))
            group.numbers.append(number)
            group.prompts.append(item["prompt"])
            group.seeds += seeds_for(first, count, generator if first is None else None)
        drawn: dict[int, GenerationResult] = {}
        for group in groups.values():
            wishes = {"seed": group.seeds, "num_images_per_prompt": count, **parameters}
            result = draw(group.prompts, **wishes | group.parameters)
            drawn |= zip(group.numbers, _one_by_one(result, count), strict=True)
        yield from (drawn[number] for number, _ in batch)


@dataclass
class _Group:
    """Rows of a batch that share their adapter, and so every step."""

    parameters: dict[str, Any]
    numbers: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


def _checked(number: int, row: object) -> Mapping[str, Any]:
    item = {"prompt": row} if isinstance(row, str) else row
    allowed = {"prompt", "seed", *OWN_PARAMETERS}
    if not isinstance(item, Mapping) or "prompt" not in item or set(item) - allowed:
        got = sorted(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
        raise InvalidRequestError(
            f"rows[{number}]",
            f"{got}; give a prompt, or a mapping with prompt and perhaps seed, "
            f"{', '.join(OWN_PARAMETERS)}",
        )
    check_prompt(f"rows[{number}].prompt", item["prompt"])
    return item


def _one_by_one(result: GenerationResult, count: int) -> Iterator[GenerationResult]:
    """The results of the prompts of a batch, with `count` pictures each."""
    for place in range(len(result.links)):
        pictures = slice(place * count, (place + 1) * count)
        yield replace(
            result,
            images=result.images[pictures],
            links=result.links[place : place + 1],
            seeds=result.seeds[pictures],
            truncated=result.truncated[place : place + 1],
            candidates=result.candidates[pictures],
            unknown=result.unknown[place : place + 1],
            unlinked=result.unlinked[place : place + 1],
        )
