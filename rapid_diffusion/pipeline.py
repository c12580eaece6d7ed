"""RapidDiffusionPipeline: the one place where the stations meet."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.adapters import Adapters, TakesAdapters
from rapid_diffusion.artifacts.loading import Artifacts
from rapid_diffusion.candidates import check_candidates
from rapid_diffusion.checkpoints.folder import Storage
from rapid_diffusion.components import find_model
from rapid_diffusion.denoising.engine import (
    FIT_LIMIT,
    Engine,
    Guidance,
    Rows,
    StepCallback,
    denoise,
    row_noise,
)
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.drawing import Images, draw, score, timed
from rapid_diffusion.errors import InvalidRequestError, NumericalError
from rapid_diffusion.facts import ModelFacts
from rapid_diffusion.images.convert import model_to_unit, pixels_to_pillow
from rapid_diffusion.model_folder import Model, exchanged_graph, save_model
from rapid_diffusion.opening import move_model, open_model
from rapid_diffusion.precision import checked_device, checked_dtype, fast_dtype
from rapid_diffusion.rendering import GenerationResult, render_rows
from rapid_diffusion.request import Request, check_choice, complete_request
from rapid_diffusion.text.cache import TextCache
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.text.entities import (
    EntityWeight,
    WeightedLink,
    links_of,
    spans_of,
    unlinked_of,
)
from rapid_diffusion.text.tokens import Tokens

OUTPUT_TYPES = ("pil", "numpy")


class RapidDiffusionPipeline(ModelFacts, TakesAdapters):
    """Chinese sentences -> pictures. Every station is a public method as well."""

    def __init__(self, model: Model, folder: Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self.device = torch.device("cpu")
        self.engine: Engine | None = None  # None: each call has its own
        self.artifacts: Artifacts | None = None
        self._adapters = Adapters(model)
        self._texts = TextCache()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "emoji-zh",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        knowledge: KnowledgeGraph | str | Path | bool | None = None,
        artifacts: str | Path | None = None,
    ) -> Self:
        """Open an embedded model by name, or a model folder; nothing is downloaded.

        `device` defaults to CUDA where there is one. `dtype` is the UNet's and the upscaler's; by
        default the one that the device is fast in. `knowledge` takes the place of the graph in
        the folder; False goes without a graph. `artifacts`: a folder that `rapid-diffusion compile`
        wrote, or "auto" for the default one if it fits. It holds native code: open your own only.
        Raises `CheckpointError` naming the file (`ArtifactError` for one of the artifacts).
        """
        at = checked_device(device)
        number_format = fast_dtype(at) if dtype is None else checked_dtype(dtype)
        folder = find_model(name_or_path)
        model, compiled = open_model(folder, knowledge, artifacts, at, number_format)
        pipe = cls(model, folder)
        pipe.device, pipe.artifacts = at, compiled
        return pipe

    def save_pretrained(self, folder: str | Path, storage: Storage = "float32") -> None:
        """Write a folder that `from_pretrained` opens; whole or not at all (`OutputError`).

        Weights are written as they are in memory, narrowed to `storage`.
        """
        with self._adapters.applied(None):
            save_model(self.model, Path(folder), storage)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """Move all networks, while nothing is drawn; `dtype`: of the UNet and the upscaler only."""
        if self.artifacts is not None:
            raise InvalidRequestError(
                "device",
                f"{device}, {dtype}; what is compiled stays where it is, open the model anew",
            )
        self.device = checked_device(device)
        self._texts.clear()
        move_model(self.model, self.device, dtype)
        return self if self.engine is None else self.share_engine(self.engine.rows)

    def share_engine(self, rows: Rows | None = None) -> Self:
        """Let calls of several threads share each call of the UNet, whenever they come.

        `rows`: how many rows each has (docs/engine.md says what that costs): pixels then depend on
        the request and on `rows`, never on who else draws. None: 2 on a CPU, 16 elsewhere. "fit":
        as many as there are. Raises `InvalidRequestError` (field `rows`) for less than 2.
        """
        default = 2 if self.device.type == "cpu" else FIT_LIMIT
        if rows == 1:
            raise InvalidRequestError("rows", "1; a guided picture takes 2, give 2 or more")
        self.engine = Engine(self.model.denoiser, default if rows is None else rows)
        return self

    def with_knowledge(self, graph: KnowledgeGraph | str | Path | None = None) -> Self:
        """The same networks, adapters and engine with another graph; this pipeline keeps its own.

        So a graph is exchanged while others draw. None: what `CURRENT` beside its own graph names
        now. All bytes of a graph that is opened here are checked, and read into the page cache.
        Raises `CheckpointError` where it is missing, damaged or its vectors do not fit.
        """
        other = copy.copy(self)
        other.model = replace(self.model, graph=exchanged_graph(self.model, graph))
        return other

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
        num_candidates: int = 1,
        seed: int | Iterable[int] | None = None,
        generator: torch.Generator | None = None,
        scheduler: str | None = None,
        upscale: int | None = None,
        knowledge: bool | Sequence[EntityWeight] = True,
        adapter: str | None = None,
        adapter_scale: float | None = None,
        style: str | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> GenerationResult:
        """Draw each prompt `num_images_per_prompt` times.

        `seed`: one number (counted up over the pictures), or one a picture; without it, seeds are
        drawn (from `generator`, if given) and returned. `height`, `width`: of the drawing, before
        `upscale`. `knowledge`: link prompts, do not, or use these entities. `adapter`: one of
        `adapters`, `adapter_scale` (0 to 2) times. `style`: told to prompts that name none ("":
        nothing; default: the first of `styles`). `num_candidates`: draw so many, with seeds made
        from its own; `score` chooses. `callback_on_step_end(step, steps, latents)` may raise to
        stop (a batch is 8). Raises `InvalidRequestError` (`field`), `NumericalError` for a NaN.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        candidates = check_candidates(num_candidates, self.most_candidates, self.name)
        wishes: dict[str, Any] = {"height": height, "width": width, "scheduler": scheduler}
        wishes |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        wishes |= {"negative_prompt": negative_prompt, "upscale": upscale}
        wishes |= {"adapter": adapter, "adapter_scale": adapter_scale, "style": style}
        request = self.request(prompt, num_images_per_prompt, seed, generator, **wishes)
        timings: dict[str, float] = {}
        with timed(timings, "text"):
            links = self.link(request, knowledge)
            unlinked = {t: unlinked_of(self.graph, t, knowledge) for t in request.prompts}
        with self._adapters.applied(request.adapter, request.adapter_scale):
            drawn = draw(self, request, links, candidates, timings, callback_on_step_end)
        first = slice(None, None, num_images_per_prompt)
        return GenerationResult(
            images=drawn.pixels if output_type == "numpy" else pixels_to_pillow(drawn.pixels),
            links=[[link for link, _ in links[text]] for text in request.prompts[first]],
            seeds=[chosen.seed for chosen in drawn.candidates] or list(request.seeds),
            parameters=request.parameters(),
            timings=timings,
            truncated=drawn.truncated[first],
            candidates=drawn.candidates,
            unknown=drawn.unknown[first],
            knowledge=self.graph_version,
            unlinked=[unlinked[text] for text in request.prompts[first]],
        )

    def request(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        seed: int | Iterable[int] | None = None,
        generator: torch.Generator | None = None,
        **wishes: Any,
    ) -> Request:
        """Check every parameter and fill in the defaults; a wish of None means the default."""
        offer = self.offer(list(self.adapters))
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
        """Word pieces -> what the UNet looks at; what was read lately is not read again."""
        adapters = self._adapters
        return self._texts.encode(self.model.text_encoder, tokens, lambda: adapters.in_place)

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
        draws = self.engine or self.model.denoiser
        return denoise(draws, noise, states, table, guidance, callback, request.seeds)

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

    def score(
        self, images: Images, prompts: str | Sequence[str], *, knowledge: bool = True
    ) -> Tensor:
        """How well each picture shows its sentence: cosines (N,) in [-1, 1], on the CPU.

        By the model's own contrastive pair. `images`: a tensor (N, 3, H, W) in [0, 1], uint8 pixels
        (N, H, W, 3), or pictures; brought to the size of a drawing first. One sentence serves all
        pictures. Raises `InvalidRequestError`, also where the model has no image tower.
        """
        with self._adapters.applied(None):
            return score(self, images, prompts, knowledge)

    def render(
        self, rows: Iterable[str | Mapping[str, Any]], **parameters: Any
    ) -> Iterator[GenerationResult]:
        """One result for each row, in order, for any number of rows.

        A row is a prompt, or a mapping with `prompt` and perhaps `seed`, `adapter` and
        `adapter_scale`; everything else is given once in `parameters`, as for a call (a `seed`
        there is counted up over all pictures). Rows are read as they are needed and drawn in
        batches of equal adapters, so `timings` are those of a row's batch.
        """
        return render_rows(self, rows, **parameters)
