"""RapidDiffusionPipeline: the one place where the stations meet."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.checkpoints.folder import folder_digest
from rapid_diffusion.denoising.engine import Guidance, StepCallback, denoise, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.errors import NumericalError
from rapid_diffusion.images.convert import Pixels, model_to_unit, pixels_to_pillow, unit_to_pixels
from rapid_diffusion.model_folder import Model, Storage, find_model, load_model, save_model
from rapid_diffusion.precision import checked_device, checked_dtype, fast_dtype
from rapid_diffusion.rendering import BATCH, GenerationResult, render_rows, timed
from rapid_diffusion.request import Offer, Request, check_choice, complete_request
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.text.entities import EntityWeight, WeightedLink, links_of, spans_of
from rapid_diffusion.text.tokens import Tokens

OUTPUT_TYPES = ("pil", "numpy")


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
        knowledge: KnowledgeGraph | str | Path | bool | None = None,
    ) -> Self:
        """Open an embedded model by name, or a model folder; nothing is downloaded.

        `device` defaults to CUDA where there is one. `dtype` is the UNet's and the upscaler's; by
        default the one that the device is fast in. `knowledge` takes the place of the graph in
        the folder; False goes without a graph. Raises `CheckpointError` naming the file.
        """
        at = checked_device(device)
        number_format = fast_dtype(at) if dtype is None else checked_dtype(dtype)
        folder = find_model(name_or_path)
        return cls(load_model(folder, knowledge), folder).to(at, number_format)

    def save_pretrained(self, folder: str | Path, storage: Storage = "float32") -> None:
        """Write a folder that `from_pretrained` opens; whole or not at all (`OutputError`).

        Weights are written as they are in memory, narrowed to `storage`.
        """
        save_model(self.model, Path(folder), storage)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """Move all networks; `dtype` changes the UNet and the upscaler only."""
        self.device = checked_device(device)
        model = self.model
        model.text_encoder.to(self.device)
        model.autoencoder.to(self.device)
        number_format = None if dtype is None else checked_dtype(dtype)
        for network in (model.denoiser, model.upscaler):
            if network is not None:
                network.to(self.device, number_format)
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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

    def __call__(  # noqa: PLR0913 - the parameters of `diffusers` pipelines, all by keyword
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Iterable[int] | None = None,
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
        entities. `callback_on_step_end(step, steps, latents)` may raise to stop the run; it counts
        from 0 anew for every batch of 8 pictures.

        Raises `InvalidRequestError` naming the parameter, `NumericalError` for a NaN.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        wishes = {
            "negative_prompt": negative_prompt,
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "upscale": upscale,
        }
        request = self.request(prompt, num_images_per_prompt, seed, generator, **wishes)
        timings: dict[str, float] = {}
        with timed(timings, "text"):
            links = self.link(request, knowledge)
        parts = [
            self._draw(batch, links, timings, callback_on_step_end)
            for batch in request.batches(BATCH)
        ]
        images = np.concatenate([pixels for pixels, _ in parts])
        truncated = [lost for _, tokens in parts for lost in tokens.truncated]
        first = slice(None, None, num_images_per_prompt)
        return GenerationResult(
            images=images if output_type == "numpy" else pixels_to_pillow(images),
            links=[[link for link, _ in links[text]] for text in request.prompts[first]],
            seeds=list(request.seeds),
            parameters=request.parameters(),
            timings=timings,
            truncated=truncated[first],
        )

    @torch.inference_mode()
    def _draw(
        self,
        request: Request,
        links: Mapping[str, Sequence[WeightedLink]],
        timings: dict[str, float],
        callback: StepCallback | None,
    ) -> tuple[Pixels, Tokens]:
        """The way of a sentence, station by station."""
        with timed(timings, "text"):
            tokens = self.tokenize(request.prompts, [links[text] for text in request.prompts])
            states = self.encode_text(tokens)
            guidance = self.guidance(request, links)
        with timed(timings, "denoise"):
            latents = self.denoise(self.noise(request), states, request, guidance, callback)
        with timed(timings, "decode"):
            images = self.decode(latents)
        with timed(timings, "upscale"):
            return unit_to_pixels(self.enlarge(images, request.upscale)), tokens

    def request(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        seed: int | Iterable[int] | None = None,
        generator: torch.Generator | None = None,
        **wishes: Any,
    ) -> Request:
        """Check every parameter and fill in the defaults; a wish of None means the default."""
        offer = Offer(self.default_parameters, self.sizes, self.upscales)
        return complete_request(offer, prompt, num_images_per_prompt, seed, generator, wishes)

    def link(
        self, request: Request, knowledge: bool | Sequence[EntityWeight] = True
    ) -> dict[str, list[WeightedLink]]:
        """Each sentence of a request -> its entities, with their weights.

        Entities that the caller names belong to the prompts; the negative prompt then has none.
        """
        negative = request.negative_prompt
        return {negative: links_of(self.graph, negative, knowledge is True)} | {
            text: links_of(self.graph, text, knowledge) for text in dict.fromkeys(request.prompts)
        }

    def tokenize(
        self, prompts: Sequence[str], links: Sequence[Sequence[WeightedLink]] | None = None
    ) -> Tokens:
        """Sentences, and the links of each with their weights -> word pieces and entity vectors."""
        spans = [spans_of(self.graph, row) for row in links or [[] for _ in prompts]]
        return self.model.tokenizer(prompts, spans, self.model.text_config.entity_dimension)

    @torch.inference_mode()
    def encode_text(self, tokens: Tokens) -> TextStates:
        """Word pieces -> what the UNet looks at."""
        return self.model.text_encoder.encode(tokens)

    def guidance(
        self, request: Request, links: Mapping[str, Sequence[WeightedLink]]
    ) -> Guidance | None:
        """The negative prompt on the road of the prompts, once for all rows; None where unused."""
        if not request.is_guided:
            return None
        text, rows = request.negative_prompt, len(request.prompts)
        states = self.encode_text(self.tokenize([text], [links[text]]))
        hidden, mask = states.hidden.expand(rows, -1, -1), states.mask.expand(rows, -1)
        return Guidance(request.guidance_scale, TextStates(hidden, mask))

    def noise(self, request: Request) -> Tensor:
        """(B, C, h, w): a picture's noise depends on its seed and on nothing else."""
        factor, channels = self.model.autoencoder.factor, self.model.denoiser.channels
        shape = (channels, request.height // factor, request.width // factor)
        return torch.stack([row_noise(seed, shape) for seed in request.seeds]).to(self.device)

    @torch.inference_mode()
    def denoise(
        self,
        noise: Tensor,
        states: TextStates,
        request: Request,
        guidance: Guidance | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Noise and text states -> clean latents (B, C, h, w)."""
        table = SAMPLERS[request.scheduler](request.num_inference_steps, self.model.card.shift)
        return denoise(self.model.denoiser, noise, states, table, guidance, callback, request.seeds)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures (B, 3, H, W) in [0, 1]; `NumericalError` for a NaN."""
        images = model_to_unit(self.model.autoencoder.decode(latents))
        if bool(torch.isnan(images).any()):
            raise NumericalError("the autoencoder gave NaN; check the weights in `vae`")
        return images

    @torch.inference_mode()
    def enlarge(self, images: Tensor, upscale: int) -> Tensor:
        """Pictures in [0, 1], `upscale` times larger."""
        upscaler = self.model.upscaler
        return images if upscale == 1 or upscaler is None else upscaler(images)

    def render(
        self, rows: Iterable[str | Mapping[str, Any]], **parameters: Any
    ) -> Iterator[GenerationResult]:
        """One result for each row, in order, for any number of rows.

        A row is a prompt, or a mapping with `prompt` and perhaps `seed`; everything else is given
        once in `parameters`, as for a call (a `seed` there is counted up over all pictures). Rows
        are read as they are needed and drawn in batches, so `timings` are those of a row's batch.
        """
        return render_rows(self, rows, **parameters)
