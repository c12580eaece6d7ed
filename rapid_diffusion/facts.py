"""What a loaded model says of itself, and what it can be asked for."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.candidates import MOST_CANDIDATES
from rapid_diffusion.checkpoints.folder import folder_digest
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.model_folder import Model
from rapid_diffusion.precision import is_narrow
from rapid_diffusion.request import Offer
from rapid_diffusion.version import __version__

if TYPE_CHECKING:
    from rapid_diffusion.artifacts.loading import Artifacts
    from rapid_diffusion.denoising.engine import Engine


class ModelFacts:
    """The properties of a pipeline that can be read without drawing anything."""

    model: Model
    folder: Path | None
    device: torch.device
    engine: "Engine | None"
    artifacts: "Artifacts | None"

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.card.name

    @property
    def license(self) -> str:
        """Licence of the weights."""
        return self.model.card.license

    @property
    def is_narrow(self) -> bool:
        """Whether the UNet calculates in less than float32."""
        return is_narrow(self.model.denoiser)

    @property
    def attribution(self) -> str:
        """Whose artwork the model learned from."""
        return self.model.card.attribution

    @property
    def graph(self) -> KnowledgeGraph | None:
        """The knowledge graph that prompts are linked to."""
        return self.model.graph

    @property
    def graph_version(self) -> str | None:
        """The name of that graph's version; None without a graph."""
        return None if self.graph is None else self.graph.version

    @cached_property
    def digest(self) -> str:
        """`sha256:…` of the model folder; empty for a pipeline that was never on disk."""
        return folder_digest(self.folder) if self.folder else ""

    @property
    def origin(self) -> dict[str, Any]:
        """What pixels depend on besides the call: pictures carry it, so that they can be verified.

        `knowledge` is the graph's version, None without a graph; `rows` those of a shared engine,
        `artifacts` the checksum of what was compiled ahead of time.
        """
        rows = {} if self.engine is None else {"rows": self.engine.rows}
        packages = f"rapid-diffusion {__version__}, torch {torch.__version__}"
        return {
            "model": self.name,
            "digest": self.digest,
            "knowledge": self.graph_version,
            "engine": ", ".join(
                [
                    packages,
                    str(self.device),
                    *(f"rows {count}" for count in rows.values()),
                    *([] if self.artifacts is None else [self.artifacts.engine]),
                ]
            ),
            **rows,
            **({} if self.artifacts is None else {"artifacts": self.artifacts.checksum}),
        }

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

    @property
    def styles(self) -> list[str]:
        """Words that name a style; sentences without one of them are told the first."""
        return self.model.card.styles.split()

    def offer(self, adapters: Sequence[str]) -> Offer:
        """What a call may ask for, with these adapters."""
        room = self.model.tokenizer.max_length - 2  # [CLS] and [SEP]
        return Offer(
            self.default_parameters, self.sizes, self.upscales, adapters, self.styles, room
        )

    @property
    def most_candidates(self) -> int:
        """How many pictures a call may choose from; 1 without an image tower."""
        return 1 if self.model.pair is None else MOST_CANDIDATES
