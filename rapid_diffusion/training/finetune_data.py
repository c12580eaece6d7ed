"""New pictures for a model that exists, rehearsed together with old ones."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.model_folder import Model
from rapid_diffusion.text.tokens import SPECIAL, UNKNOWN, Tokens
from rapid_diffusion.training.config import DataConfig, LoopConfig, with_pictures
from rapid_diffusion.training.data import Examples, read_rows
from rapid_diffusion.training.latents import encode_all

_LISTED = 20


@dataclass(frozen=True)
class Source:
    """Examples in the words of a model, and the latents (N, C, h, w) of their pictures.

    `unknown_entities` counts the rows whose entity the model's graph does not know.
    """

    examples: Examples
    latents: Tensor
    unknown_entities: int = 0


def open_source(config: DataConfig, model: Model) -> Source:
    """The data folder with the tokenizer and the graph of the model; see `open_examples_of`."""
    examples, unknown = open_examples_of(config, model)
    return Source(examples, encode_all(model.autoencoder, examples), unknown)


def open_examples_of(config: DataConfig, model: Model) -> tuple[Examples, int]:
    """Its examples in the words of the model, and how many rows' entities its graph lacks.

    Raises `CheckpointError` naming the file, `InvalidRequestError` (`start`) for a model without
    entity vectors.
    """
    graph = graph_with_vectors(model, "start")
    rows = read_rows(Path(config.folder) / "metadata.jsonl")
    strange = [n for n, row in enumerate(rows) if "entity" in row and not _knows(graph, row)]
    for number in strange:
        del rows[number]["entity"]
    length = model.text_config.max_length
    wanted = model.denoiser.sample_size * model.autoencoder.factor
    scale = 1 if model.upscaler is None else model.upscaler.scale
    config = with_pictures(config, wanted, wanted * scale)
    examples = Examples(config, length, tokenizer=model.tokenizer, graph=graph, rows=rows)
    if examples.pictures.shape[1:3] != (wanted, wanted):
        raise CheckpointError(
            Path(config.folder) / config.pictures,
            f"pictures of {examples.pictures.shape[1:3]}; the model draws {(wanted, wanted)}: "
            "prepare the data at that size",
        )
    return examples, len(strange)


def graph_with_vectors(model: Model, field: str) -> KnowledgeGraph:
    """The model's graph; `InvalidRequestError` naming `field` where it has no entity vectors."""
    graph = model.graph
    if graph is None or graph.dimension == 0:
        raise InvalidRequestError(
            field, "the model has no entity vectors; open one with a knowledge graph"
        )
    return graph


def _knows(graph: KnowledgeGraph, row: dict[str, Any]) -> bool:
    try:
        graph.entity(row["entity"])
    except (KnowledgeError, TypeError):
        return False
    return True


@dataclass(frozen=True)
class CaptionReport:
    """What the model cannot read of the captions; characters with how often each stands there."""

    captions: int
    with_unknown_characters: int
    unknown_characters: dict[str, int]
    cut: int
    linked: int
    unknown_entities: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def warning(self) -> str:
        """One line for the log; empty where everything can be read."""
        if not (self.with_unknown_characters or self.cut or self.unknown_entities):
            return ""
        rare = "".join(list(self.unknown_characters)[:_LISTED])
        return (
            f"{self.with_unknown_characters} of {self.captions} captions hold characters that the "
            f"model does not know ({len(self.unknown_characters)} of them: {rare or 'none'}), which"
            f" it reads as {SPECIAL[UNKNOWN]}; {self.cut} captions are longer than it reads; "
            f"the entities of {self.unknown_entities} pictures are not in its graph"
        )


def report_captions(source: Source) -> CaptionReport:
    """Read every caption as the model does and count what is lost."""
    examples = source.examples
    texts = [text for row in examples.rows for text in row["captions"]]
    characters = Counter(c for text in texts for c in text if not c.isspace())
    unknown = {c: n for c, n in characters.most_common() if _is_unknown(examples, c)}
    limit = examples.tokenizer.max_length
    encoded = examples.tokenizer.tokenizer.encode_batch(texts)
    return CaptionReport(
        captions=len(texts),
        with_unknown_characters=sum(any(c in unknown for c in text) for text in texts),
        unknown_characters=unknown,
        cut=sum(len(encoding.ids) > limit for encoding in encoded),
        linked=int((examples.captions.entities >= 0).any(1).sum()),
        unknown_entities=source.unknown_entities,
    )


def _is_unknown(examples: Examples, character: str) -> bool:
    return UNKNOWN in examples.tokenizer.tokenizer.encode(character).ids


@dataclass(frozen=True)
class Mixture:
    """Batches of new examples with a share of old ones among them; a function of the step."""

    new: Source
    old: Source | None = None
    share: float = 0.0

    def rehearsed(self, batch: int) -> int:
        """How many rows of a batch are old ones; they stand at its end."""
        return round(batch * self.share) if self.old is not None else 0

    def batch(
        self, step: int, loop: LoopConfig, generator: torch.Generator
    ) -> tuple[Tokens, Tensor]:
        """The sentences of a step and the latents (B, C, h, w) of their pictures."""
        rehearsed = self.rehearsed(loop.batch)
        parts = [_draw(self.new, step, loop.batch - rehearsed, loop.seed, generator)]
        if self.old is not None and rehearsed:
            parts.append(_draw(self.old, step, rehearsed, loop.seed, generator))
        tokens, latents = zip(*parts, strict=True)
        return joined(tokens), torch.cat(latents)


def joined(parts: tuple[Tokens, ...]) -> Tokens:
    """Several batches of sentences as one."""
    return Tokens(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.mask for part in parts]),
        torch.cat([part.entity_vectors for part in parts]),
        [lost for part in parts for lost in part.truncated],
    )


def spread(numbers: list[int], most: int) -> list[int]:
    """At most `most` of them, evenly over the list, the same each time."""
    if len(numbers) <= most:
        return numbers
    places = np.linspace(0, len(numbers) - 1, most).round().astype(int)
    return [numbers[place] for place in places]


def _draw(
    source: Source, step: int, count: int, seed: int, generator: torch.Generator
) -> tuple[Tokens, Tensor]:
    indices = source.examples.indices(step, count, seed)
    return source.examples.sentences(indices, generator), source.latents[indices]
