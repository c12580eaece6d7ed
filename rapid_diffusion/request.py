"""What a call may ask for: every limit in one place, checked before any work is done."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.errors import InvalidRequestError

MOST_CHARACTERS = 2000
MOST_STEPS = 100
MOST_GUIDANCE = 30.0
MOST_IMAGES = 8
MOST_SEED = 2**53 - 1  # exact in every JSON client
DRAWN_SEEDS = 2**32


@dataclass(frozen=True)
class Request:
    """One call, complete: a row for each picture. `negative_prompt` serves all rows."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    upscale: int

    def parameters(self) -> dict[str, Any]:
        """The effective parameters that are common to all rows."""
        return {
            "negative_prompt": self.negative_prompt,
            "height": self.height,
            "width": self.width,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
            "upscale": self.upscale,
        }


def check_prompt(field: str, value: object, *, may_be_blank: bool = False) -> str:
    """A sentence that can be encoded, of 1 to 2000 characters (a negative one may be blank)."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"a {type(value).__name__}; a string is wanted")
    if not may_be_blank and not value.strip():
        raise InvalidRequestError(field, "empty; write what the picture should show")
    if len(value) > MOST_CHARACTERS:
        raise InvalidRequestError(
            field, f"{len(value)} characters; allowed: 1 to {MOST_CHARACTERS}"
        )
    for place, character in enumerate(value):
        if 0xD800 <= ord(character) <= 0xDFFF:
            raise InvalidRequestError(
                field,
                f"half a surrogate pair (U+{ord(character):04X}) at character {place}; "
                "send whole characters, in UTF-8",
            )
    return value


def check_integer(field: str, value: object, least: int, most: int) -> int:
    """A whole number (not a bool) from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(field, f"{value!r}; a whole number is wanted")
    if not least <= value <= most:
        raise InvalidRequestError(field, f"{value}; allowed: {least} to {most}")
    return value


def check_guidance(value: object) -> float:
    """A finite number from 0 to 30."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequestError("guidance_scale", f"{value!r}; a number is wanted")
    if not 0.0 <= value <= MOST_GUIDANCE:
        raise InvalidRequestError(
            "guidance_scale", f"{value}; allowed: 0 to {MOST_GUIDANCE:g} (1 = no guidance)"
        )
    return float(value)


def check_choice(field: str, value: object, allowed: Sequence[object]) -> None:
    """One of the values that the model knows."""
    if value not in allowed or isinstance(value, bool):
        listed = ", ".join(map(str, allowed))
        raise InvalidRequestError(field, f"{value!r}; allowed: {listed}")


def check_scheduler(value: str) -> str:
    """The name of a sampler."""
    check_choice("scheduler", value, sorted(SAMPLERS))
    return value


def seeds_for(seed: int | Sequence[int] | None, rows: int) -> tuple[int, ...]:
    """A seed for each row: those given, counted up from the one given, or drawn.

    Raises `InvalidRequestError` where the number of seeds is not the number of pictures.
    """
    if seed is None:
        return tuple(random.SystemRandom().randrange(DRAWN_SEEDS) for _ in range(rows))
    if isinstance(seed, int):
        first = check_integer("seed", seed, 0, MOST_SEED - rows + 1)
        return tuple(range(first, first + rows))
    if len(seed) != rows:
        raise InvalidRequestError("seed", f"{len(seed)} seeds for {rows} pictures; give one each")
    return tuple(check_integer("seed", value, 0, MOST_SEED) for value in seed)
