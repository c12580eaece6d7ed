"""RapidDiffusionPipeline: the one place where the stations meet."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from knowledge.graph import KnowledgeGraph
from knowledge.linking import Link
from rapid_diffusion.checkpoints.folder import folder_digest
from rapid_diffusion.denoising.engine import Guidance, StepCallback, denoise, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS, SamplerTable
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images.convert import (
    Pixels,
    model_to_unit,
    pixels_to_pillow,
    unit_to_pixels,
)
from rapid_diffusion.model_folder import Model, find_model, load_model, save_model
from rapid_diffusion.request import (
    MOST_IMAGES,
    MOST_STEPS,
    Request,
    check_choice,
    check_guidance,
    check_integer,
    check_prompt,
    check_scheduler,
    seeds_for,
)
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.text.entities import EntityWeight, links_of, spans_of
from rapid_diffusion.text.tokens import Tokens

#: Pictures drawn side by side; longer lists are drawn in batches of this many.
BATCH = 8
OUTPUT_TYPES = ("pil", "numpy")

WeightedLink = tuple[Link, float]
Row = TypeVar("Row")


@dataclass(frozen=True)
class GenerationResult:
    """What came of one call, in the order of its prompts.

    images: PIL pictures, or for output_type="numpy" one uint8 array (N, H, W, 3);
    links: for each prompt, what the graph found in it; seeds: one a picture;
    parameters: the effective ones; timings: seconds a station;
    truncated: for each prompt the first character that did not fit the encoder, or None.
    """

    images: Any
    links: list[list[Link]]
    seeds: list[int]
    parameters: dict[str, Any]
    timings: dict[str, float]
    truncated: list[int | None]


class RapidDiffusionPipeline:
    """Chinese sentences -> pictures. Every station is a public method as well."""

    def __init__(self, model: Model, folder: Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "emoji-zh",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        knowledge: KnowledgeGraph | str | Path | None = None,
    ) -> Self:
        """Open an embedded model by name, or a model folder; nothing is downloaded.

        `device` defaults to CUDA where there is one. `dtype` is the UNet's and the upscaler's.
        `knowledge` takes the place of the graph in the folder. Raises `CheckpointError`.
        """
        folder = find_model(name_or_path)
        pipeline = cls(load_model(folder, knowledge), folder)
        return pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype)

    def save_pretrained(self, folder: str | Path, storage: str = "float32") -> None:
        """Write a folder that `from_pretrained` opens; whole or not at all (`OutputError`)."""
        save_model(self.model, Path(folder), storage)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """Move all networks; `dtype` changes the UNet and the upscaler only."""
        self.device = torch.device(device)
        model = self.model
        model.text_encoder.to(self.device)
        model.autoencoder.to(self.device)
        for network in (model.denoiser, model.upscaler):
            if network is not None:
                network.to(self.device, dtype, memory_format=torch.channels_last)
        return self

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.card.name

    @property
    def license(self) -> str:
        """Licence of the weights."""
        return self.model.card.license

    @property
    def attribution(self) -> str:
        """Whose artwork the model learned from."""
        return self.model.card.attribution

    @property
    def graph(self) -> KnowledgeGraph | None:
        """The knowledge graph that prompts are linked to."""
        return self.model.graph

    @cached_property
    def digest(self) -> str:
        """`sha256:…` of the model folder; empty for a pipeline that was never on disk."""
        return folder_digest(self.folder) if self.folder else ""

    @property
    def default_parameters(self) -> dict[str, Any]:
        """What a call without parameters uses."""
        card, (height, width) = self.model.card, self.sizes[0]
        return {
            "height": height,
            "width": width,
            "num_inference_steps": card.num_inference_steps,
            "guidance_scale": card.guidance_scale,
            "scheduler": card.scheduler,
            "upscale": card.upscale if card.upscale in self.upscales else 1,
        }

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (height, width) a drawing may have, before it is enlarged."""
        side = self.model.denoiser.sample_size * self.model.autoencoder.factor
        return [(side, side)]

    @property
    def schedulers(self) -> list[str]:
        """The samplers' names."""
        return sorted(SAMPLERS)

    @property
    def upscales(self) -> list[int]:
        """How many times a drawing may be enlarged."""
        return [1] if self.model.upscaler is None else [1, self.model.upscaler.scale]

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        scheduler: str | None = None,
        upscale: int | None = None,
        knowledge: bool | Sequence[EntityWeight] = True,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> GenerationResult:
        """Draw each prompt `num_images_per_prompt` times.

        `seed`: one number (counted up from picture to picture), or one a picture; without it,
        seeds are drawn (from `generator`, if given) and returned. `height` and `width` are of the
        drawing, before `upscale`. `knowledge`: link prompts to the graph, do not, or use these
        entities. `callback_on_step_end(step, steps, latents)` may raise to stop the run.

        Raises `InvalidRequestError` naming the parameter, `NumericalError` for a NaN.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        request = self.request(
            prompt,
            num_images_per_prompt,
            _drawn_from(generator, prompt, num_images_per_prompt) if seed is None else seed,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            scheduler=scheduler,
            upscale=upscale,
        )
        links = {
            text: links_of(self.graph, text, knowledge) for text in dict.fromkeys(request.prompts)
        }
        timings: dict[str, float] = {}
        parts = [
            self._draw(
                replace(request, prompts=prompts, seeds=seeds), links, timings, callback_on_step_end
            )
            for prompts, seeds in zip(
                _batched(request.prompts), _batched(request.seeds), strict=True
            )
        ]
        pixels = torch.cat([part for part, _ in parts])
        truncated = [lost for _, tokens in parts for lost in tokens.truncated]
        images = unit_to_pixels(pixels)
        return GenerationResult(
            images=images if output_type == "numpy" else pixels_to_pillow(images),
            links=[
                [link for link, _ in links[text]]
                for text in request.prompts[::num_images_per_prompt]
            ],
            seeds=list(request.seeds),
            parameters=request.parameters(),
            timings=timings,
            truncated=truncated[::num_images_per_prompt],
        )

    def request(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int,
        seed: int | Sequence[int] | None,
        **wishes: Any,
    ) -> Request:
        """Check every parameter and fill in the defaults; a wish of None means the default."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise InvalidRequestError("prompt", "an empty list; give at least one sentence")
        for text in prompts:
            check_prompt("prompt", text)
        count = check_integer("num_images_per_prompt", num_images_per_prompt, 1, MOST_IMAGES)
        rows = [text for text in prompts for _ in range(count)]
        wanted = self.default_parameters | {k: v for k, v in wishes.items() if v is not None}
        allowed = [list(side) for side in zip(*self.sizes, strict=True)]
        for field, choices in zip(("height", "width"), allowed, strict=True):
            check_choice(field, wanted[field], choices)
        check_choice("upscale", wanted["upscale"], self.upscales)
        steps = check_integer("num_inference_steps", wanted["num_inference_steps"], 1, MOST_STEPS)
        return Request(
            prompts=tuple(rows),
            seeds=seeds_for(seed, len(rows)),
            negative_prompt=check_prompt(
                "negative_prompt", wanted.get("negative_prompt", ""), may_be_blank=True
            ),
            height=wanted["height"],
            width=wanted["width"],
            num_inference_steps=steps,
            guidance_scale=check_guidance(wanted["guidance_scale"]),
            scheduler=check_scheduler(wanted["scheduler"]),
            upscale=wanted["upscale"],
        )

    @torch.inference_mode()
    def _draw(
        self,
        request: Request,
        links: Mapping[str, list[WeightedLink]],
        timings: dict[str, float],
        callback: StepCallback | None,
    ) -> tuple[Tensor, Tokens]:
        """The way of a sentence, station by station."""
        with _timed(timings, "text"):
            tokens = self.tokenize(request.prompts, [links[text] for text in request.prompts])
            states = self.encode_text(tokens)
        with _timed(timings, "denoise"):
            latents = self.denoise(self.noise(request), states, request, callback)
        with _timed(timings, "decode"):
            images = self.decode(latents)
        with _timed(timings, "upscale"):
            return self.enlarge(images, request.upscale).float().cpu(), tokens

    def tokenize(
        self, prompts: Sequence[str], links: Sequence[Sequence[WeightedLink]] | None = None
    ) -> Tokens:
        """Sentences, and the links of each with their weights -> word pieces and entity vectors."""
        spans = [spans_of(self.graph, row) for row in links or [[] for _ in prompts]]
        return self.model.tokenizer(prompts, spans, self.model.text_config.entity_dimension)

    def encode_text(self, tokens: Tokens) -> TextStates:
        """Word pieces -> what the UNet looks at."""
        return self.model.text_encoder.encode(tokens)

    def noise(self, request: Request) -> Tensor:
        """(B, C, h, w): a picture's noise depends on its seed and on nothing else."""
        factor = self.model.autoencoder.factor
        shape = (
            self.model.denoiser.channels,
            request.height // factor,
            request.width // factor,
        )
        noise = torch.stack([row_noise(seed, shape) for seed in request.seeds])
        return noise.to(self.device)

    def denoise(
        self,
        noise: Tensor,
        states: TextStates,
        request: Request,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Noise and text states -> clean latents (B, C, h, w)."""
        guidance = None
        if request.guidance_scale != 1.0:
            negative = self.encode_text(self.tokenize([request.negative_prompt]))
            rows = len(noise)
            negative = TextStates(
                negative.hidden.expand(rows, -1, -1), negative.mask.expand(rows, -1)
            )
            guidance = Guidance(request.guidance_scale, negative)
        table = self.sampler_table(request.scheduler, request.num_inference_steps)
        return denoise(self.model.denoiser, noise, states, table, guidance, callback)

    def sampler_table(self, scheduler: str, steps: int) -> SamplerTable:
        """The coefficients of a sampler, with this model's shift of times."""
        return SAMPLERS[scheduler](steps, self.model.card.shift)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures (B, 3, H, W) in [0, 1]."""
        return model_to_unit(self.model.autoencoder.decode(latents))

    def enlarge(self, images: Tensor, upscale: int) -> Tensor:
        """Pictures in [0, 1], `upscale` times larger."""
        upscaler = self.model.upscaler
        return images if upscale == 1 or upscaler is None else upscaler(images)

    def render(
        self, rows: Iterable[str | Mapping[str, Any]], **parameters: Any
    ) -> Iterator[GenerationResult]:
        """One result for each row, in order, for any number of rows.

        A row is a prompt, or a mapping with `prompt` and perhaps `seed`; everything else is given
        once in `parameters`, as for a call. Rows are drawn in batches and read as they are needed.
        """
        for batch in _batched(rows):
            items = [{"prompt": row} if isinstance(row, str) else dict(row) for row in batch]
            prompts = [_row_prompt(item) for item in items]
            drawn = seeds_for(None, len(items))
            seeds = [item.get("seed", seed) for item, seed in zip(items, drawn, strict=True)]
            yield from _one_by_one(self(prompts, seed=seeds, **parameters))


def _batched(rows: Iterable[Row]) -> Iterator[tuple[Row, ...]]:
    """Batches of `BATCH` rows, the last perhaps smaller; reads no further than it must."""
    remaining = iter(rows)
    while batch := tuple(islice(remaining, BATCH)):
        yield batch


def _row_prompt(item: Mapping[str, Any]) -> str:
    unknown = sorted(set(item) - {"prompt", "seed"})
    if unknown or "prompt" not in item:
        raise InvalidRequestError(
            "rows", f"a row with the keys {sorted(item)}; allowed: prompt and seed"
        )
    return check_prompt("prompt", item["prompt"])


def _one_by_one(result: GenerationResult) -> Iterator[GenerationResult]:
    for place in range(len(result.images)):
        yield replace(
            result,
            images=result.images[place : place + 1],
            links=result.links[place : place + 1],
            seeds=result.seeds[place : place + 1],
            truncated=result.truncated[place : place + 1],
        )


def _drawn_from(
    generator: torch.Generator | None, prompt: str | Sequence[str], count: int
) -> list[int] | None:
    """Seeds drawn from the caller's generator, as users of `diffusers` expect."""
    if generator is None:
        return None
    rows = (1 if isinstance(prompt, str) else len(prompt)) * count
    return torch.randint(2**32, (rows,), generator=generator).tolist()


@contextmanager
def _timed(timings: dict[str, float], station: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[station] = timings.get(station, 0.0) + time.perf_counter() - started


__all__ = ["BATCH", "GenerationResult", "Pixels", "RapidDiffusionPipeline"]
