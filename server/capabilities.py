"""What the loaded model can do, read once: plain data, so that routes never touch the pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from rapid_diffusion import RapidDiffusionPipeline

_FIT_ROWS = 16  # the most that "fit" lets into one call


@dataclass(frozen=True)
class Capabilities:
    """The facts of one model; `sizes` are (height, width) in pixels of the drawing.

    `origin` is what its pictures carry, to be verified; `adapters` maps the name a request gives
    to what is told of that adapter; `styles` are as `RapidDiffusionPipeline.styles`.
    """

    license: str
    device: str
    origin: dict[str, Any]
    sizes: list[tuple[int, int]]
    schedulers: list[str]
    upscales: list[int]
    defaults: dict[str, Any]
    attributions: str
    adapters: dict[str, dict[str, str]]
    most_candidates: int = 1
    styles: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.origin["model"])

    @property
    def digest(self) -> str:
        """`sha256:…` of the model folder."""
        return str(self.origin["digest"])

    @property
    def knowledge_version(self) -> str | None:
        """The graph's version; None without a graph."""
        version: str | None = self.origin["knowledge"]
        return version

    def with_knowledge(self, version: str | None) -> "Capabilities":
        """The same model with this version of a graph: what a picture that had it is told from."""
        return replace(self, origin=self.origin | {"knowledge": version})

    @property
    def rows(self) -> int | Literal["fit"] | None:
        """Rows of every call of the UNet; None where requests do not share them."""
        rows: int | Literal["fit"] | None = self.origin.get("rows")
        return rows

    @property
    def model(self) -> dict[str, str]:
        """The model as a response names it."""
        return {"name": self.name, "digest": self.digest, "license": self.license}

    @property
    def engine(self) -> str:
        """What pixels depend on besides the request and the model."""
        return str(self.origin["engine"])

    @property
    def concurrency(self) -> int:
        """How many requests to have in hand: as the rows hold, but at least eight; one decodes.

        The engine pauses those for whom a call has no rows, so that short ones can go first.
        """
        if self.rows is None:
            return 1
        return max(_FIT_ROWS, 0 if self.rows == "fit" else self.rows) // 2 + 1


def read_capabilities(pipeline: RapidDiffusionPipeline) -> Capabilities:
    """Copy the facts out of a pipeline."""
    return Capabilities(
        license=pipeline.license,
        device=str(pipeline.device),
        origin=pipeline.origin,
        sizes=[(int(height), int(width)) for height, width in pipeline.sizes],
        schedulers=list(pipeline.schedulers),
        upscales=sorted({1, *pipeline.upscales}),
        defaults=dict(pipeline.default_parameters),
        most_candidates=pipeline.most_candidates,
        styles=pipeline.styles,
        attributions="\n\n".join(filter(None, [*_whose(pipeline), read_notice()])),
        adapters={
            name: {"name": name, "title": card.name, "digest": card.digest, "license": card.license}
            for name, card in pipeline.adapters.items()
        },
    )


def _whose(pipeline: RapidDiffusionPipeline) -> list[str]:
    """Whose artwork the model and its adapters learned from."""
    return [pipeline.attribution, *(card.attribution for card in pipeline.adapters.values())]


def read_notice() -> str:
    """The text of NOTICE: from the installed package, else from the checkout; else empty."""
    try:
        text = distribution("rapid-diffusion").read_text("licenses/NOTICE")
    except PackageNotFoundError:
        text = None
    source = Path(__file__).parents[1] / "NOTICE"
    if text is None and source.is_file():
        text = source.read_text(encoding="utf-8")
    return text or ""
