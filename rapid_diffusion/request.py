"""What a call may ask for: every limit in one place, checked before any work is done."""

import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeGuard, TypeVar

import torch

from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.errors import InvalidRequestError

MOST_CHARACTERS = 2000
MOST_STEPS = 100
MOST_GUIDANCE = 30.0
MOST_SCALE = 2.0
MOST_IMAGES = 8
MOST_SEED = 2**53 - 1  # exact in every JSON client
DRAWN_SEEDS = 2**32

#: Unicode's separators, control and format characters: nothing that could be drawn.
_BLANK = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})

Choice = TypeVar("Choice", int, str)


@dataclass(frozen=True)
class Request:
    """One call, complete: a row for each picture. `negative_prompt` serves all rows.

    `style` is what prompts that name none were told; None where none was told and none asked for.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    upscale: int
    adapter: str | None = None
    adapter_scale: float = 1.0
    style: str | None = None

    @property
    def is_guided(self) -> bool:
        """Whether the negative prompt counts: a scale of 1 is no guidance."""
        return self.guidance_scale != 1.0

    def parameters(self) -> dict[str, Any]:
        """The effective parameters of all rows; adapter and style only where there is one."""
        adapter = {"adapter": self.adapter, "adapter_scale": self.adapter_scale}
        return {
            "negative_prompt": self.negative_prompt,
            "height": self.height,
            "width": self.width,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
            "upscale": self.upscale,
            **(adapter if self.adapter is not None else {}),
            **({"style": self.style} if self.style is not None else {}),
        }

    def batches(self, size: int) -> Iterator["Request"]:
        """The same request for at most `size` rows at a time."""
        for start in range(0, len(self.prompts), size):
            rows = slice(start, start + size)
            yield replace(self, prompts=self.prompts[rows], seeds=self.seeds[rows])


@dataclass(frozen=True)
class Offer:
    """What one model can be asked for: defaults, sizes (height, width), upscales, adapters.

    `styles`: words that name a style, the default first. `room`: characters that a sentence holds.
    """

    defaults: Mapping[str, Any]
    sizes: Sequence[tuple[int, int]]
    upscales: Sequence[int]
    adapters: Sequence[str] = ()
    styles: Sequence[str] = ()
    room: int = MOST_CHARACTERS

    def with_style(self, text: str, style: str) -> str:
        """A sentence that names no style gets this one, where there is room for it."""
        if not style or any(word in text for word in (style, *self.styles)):
            return text
        longer = f"{text}，{style}"
        return longer if len(longer) <= self.room else text


def complete_request(
    offer: Offer,
    prompt: str | Sequence[str],
    num_images_per_prompt: int,
    seed: int | Iterable[int] | None,
    generator: torch.Generator | None,
    wishes: Mapping[str, Any],
) -> Request:
    """Check every parameter and fill in the defaults; a wish of None means the default.

    Raises `InvalidRequestError` naming the parameter.
    """
    prompts = check_prompts(prompt)
    count = check_integer("num_images_per_prompt", num_images_per_prompt, 1, MOST_IMAGES)
    wanted = {**offer.defaults, **{k: v for k, v in wishes.items() if v is not None}}
    heights, widths = zip(*offer.sizes, strict=True)
    adapter, adapter_scale = check_adapter(
        wanted.get("adapter"), wanted.get("adapter_scale"), offer.adapters
    )
    # An adapter has words of its own for how it draws.
    default = "" if adapter or not offer.styles else offer.styles[0]
    style = check_prompt("style", wanted.get("style", default), may_be_blank=True)
    told = [offer.with_style(text, style) for text in prompts]
    rows = [text for text in told for _ in range(count)]
    return Request(
        prompts=tuple(rows),
        seeds=seeds_for(seed, len(rows), generator),
        negative_prompt=check_prompt(
            "negative_prompt", wanted.get("negative_prompt", ""), may_be_blank=True
        ),
        height=check_choice("height", wanted["height"], heights),
        width=check_choice("width", wanted["width"], widths),
        num_inference_steps=check_integer(
            "num_inference_steps", wanted["num_inference_steps"], 1, MOST_STEPS
        ),
        guidance_scale=check_guidance(wanted["guidance_scale"]),
        scheduler=check_choice("scheduler", wanted["scheduler"], sorted(SAMPLERS)),
        upscale=check_choice("upscale", wanted["upscale"], offer.upscales),
        adapter=adapter,
        adapter_scale=adapter_scale,
        style=style if told != prompts or "style" in wanted else None,
    )


def check_prompts(prompt: object) -> list[str]:
    """One sentence or a list of them, as a list."""
    if isinstance(prompt, str):
        return [check_prompt("prompt", prompt)]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InvalidRequestError(
            "prompt", f"{_kind(prompt)}; a string or a list of strings is wanted"
        )
    if not prompt:
        raise InvalidRequestError("prompt", "an empty list; give at least one sentence")
    return [check_prompt("prompt", text) for text in prompt]


def check_prompt(field: str, value: object, *, may_be_blank: bool = False) -> str:
    """A sentence that can be encoded, of 1 to 2000 characters (a negative one may be blank)."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"{_kind(value)}; a string is wanted")
    if len(value) > MOST_CHARACTERS:
        raise InvalidRequestError(
            field, f"{len(value)} characters; allowed: 1 to {MOST_CHARACTERS}"
        )
    if not may_be_blank and all(unicodedata.category(character) in _BLANK for character in value):
        raise InvalidRequestError(field, "empty; write what the picture should show")
    for place, character in enumerate(value):
        if 0xD800 <= ord(character) <= 0xDFFF:
            raise InvalidRequestError(
                field,
                f"half a surrogate pair (U+{ord(character):04X}) at character {place}; "
                "send whole characters, in UTF-8",
            )
    return value


def check_integer(field: str, value: object, least: int, most: int) -> int:
    """A whole number (not a bool) from `least` to `most`; numpy's are welcome."""
    if not _is_integer(value):
        raise InvalidRequestError(field, f"{value!r}; a whole number is wanted")
    if not least <= value <= most:
        raise InvalidRequestError(field, f"{value}; allowed: {least} to {most}")
    return int(value)


def check_number(field: str, value: object, most: float, hint: str = "") -> float:
    """A finite number (not a bool) from 0 to `most`."""
    if not _is_number(value):
        raise InvalidRequestError(field, f"{value!r}; a number is wanted")
    if not 0.0 <= value <= most:
        raise InvalidRequestError(field, f"{value}; allowed: 0 to {most:g}{hint}")
    return float(value)


def check_guidance(value: object) -> float:
    """A finite number from 0 to 30."""
    return check_number("guidance_scale", value, MOST_GUIDANCE, " (1 = no guidance)")


def check_adapter(name: object, scale: object, loaded: Sequence[str]) -> tuple[str | None, float]:
    """An adapter that is loaded and a scale from 0 to 2; without an adapter, no scale."""
    if name is None:
        if scale is not None:
            raise InvalidRequestError("adapter_scale", f"{scale!r} without an adapter; name one")
        return None, 1.0
    if not isinstance(name, str) or name not in loaded:
        there = ", ".join(loaded) or "none is loaded (load_adapter, --adapter)"
        raise InvalidRequestError("adapter", f"{name!r}; allowed: {there}")
    return name, check_number("adapter_scale", 1.0 if scale is None else scale, MOST_SCALE)


def check_choice(field: str, value: object, allowed: Sequence[Choice]) -> Choice:
    """One of the values that the model knows."""
    wanted = int(value) if _is_integer(value) else value
    for choice in allowed:
        if type(wanted) is type(choice) and wanted == choice:
            return choice
    listed = ", ".join(map(str, dict.fromkeys(allowed)))
    raise InvalidRequestError(field, f"{value!r}; allowed: {listed}")


def seeds_for(
    seed: int | Iterable[int] | None, rows: int, generator: torch.Generator | None = None
) -> tuple[int, ...]:
    """A seed for each row: those given, counted up from the one given, or drawn.

    Without `seed`, they are drawn from the caller's `generator`, as users of `diffusers` expect.
    Raises `InvalidRequestError` where the number of seeds is not the number of pictures.
    """
    if generator is not None:
        return _drawn_from(generator, seed, rows)
    if seed is None:
        return tuple(random.SystemRandom().randrange(DRAWN_SEEDS) for _ in range(rows))
    if not isinstance(seed, Iterable):
        first = check_integer("seed", seed, 0, MOST_SEED - rows + 1)
        return tuple(range(first, first + rows))
    seeds = tuple(check_integer("seed", value, 0, MOST_SEED) for value in seed)
    if len(seeds) != rows:
        raise InvalidRequestError("seed", f"{len(seeds)} seeds for {rows} pictures; give one each")
    return seeds


def _drawn_from(generator: object, seed: object, rows: int) -> tuple[int, ...]:
    if not isinstance(generator, torch.Generator):
        raise InvalidRequestError("generator", f"{_kind(generator)}; one torch.Generator is wanted")
    if seed is not None:
        raise InvalidRequestError("generator", "given beside seed; give one of the two")
    drawn = torch.randint(DRAWN_SEEDS, (rows,), generator=generator, device=generator.device)
    return tuple(drawn.tolist())


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
