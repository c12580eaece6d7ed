"""(picture, sentence) -> links -> tokens and entities, drawn anew at every step.

Everything random is a function of (seed, step), so that a training that was killed goes on with
exactly the examples it would have seen.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.text.entities import graph_vectors
from rapid_diffusion.text.tokens import SPECIAL, EntitySpan, TextTokenizer, Tokens
from rapid_diffusion.training.config import DataConfig

NO_ENTITY = -1


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step."""
    return torch.Generator().manual_seed(mixed_seed(seed, step))


def mixed_seed(*numbers: int) -> int:
    """One number from several: torch's CPU generator looks at 32 bits, so sums would collide."""
    text = "/".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


@dataclass(frozen=True)
class Captions:
    """Every caption once: ids and entities (N, L), and whether an entity is the picture's own."""

    ids: Tensor
    mask: Tensor
    entities: Tensor
    own: Tensor


class Examples:
    """Pictures, their captions as tokens, and the entity vectors of the graph.

    A model that learns on brings its `tokenizer` and `graph`, and perhaps `rows` that were changed
    to fit it; else all three come from the data folder.

    Raises `CheckpointError` naming the file that is missing or does not fit the others.
    """

    def __init__(
        self,
        config: DataConfig,
        max_length: int,
        *,
        tokenizer: TextTokenizer | None = None,
        graph: KnowledgeGraph | None = None,
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        folder = Path(config.folder)
        self.config = config
        self.rows = read_rows(folder / "metadata.jsonl") if rows is None else rows
        self.pictures = _read_pictures(folder / config.pictures, len(self.rows))
        self.large_path = folder / config.large_pictures
        self.graph = _open_graph(folder / config.graph) if graph is None else graph
        self.vectors = graph_vectors(self.graph)
        self.train = [i for i, row in enumerate(self.rows) if row.get("split", "train") == "train"]
        if not self.train:
            raise CheckpointError(folder / "metadata.jsonl", "no row of the split `train`")
        self.held_out = [i for i, row in enumerate(self.rows) if row.get("split") == "held_out"]
        captions = [row["captions"] for row in self.rows]
        if tokenizer is None:
            words = vocabulary_of([c for i in self.train for c in captions[i]])
            tokenizer = TextTokenizer.from_vocabulary(words, max_length)
        self.tokenizer = tokenizer
        self.first = np.cumsum([0, *[len(group) for group in captions]])
        self.captions = self._tokenise([text for group in captions for text in group])

    def large_pictures(self) -> NDArray[np.uint8]:
        """The same pictures at the size the upscaler aims at, mapped from disk."""
        return _read_pictures(self.large_path, len(self.rows))

    def picture_batch(self, indices: list[int]) -> Tensor:
        """(B, 3, H, W) in [-1, 1]."""
        return to_signed(self.pictures[indices])

    def indices(self, step: int, batch: int, seed: int) -> list[int]:
        """The pictures of a step: each pass over the data is its own permutation."""
        chosen: list[int] = []
        for place in range(step * batch, (step + 1) * batch):
            epoch, offset = divmod(place, len(self.train))
            if not chosen or offset == 0:
                order = torch.randperm(len(self.train), generator=step_generator(seed + 1, epoch))
            chosen.append(self.train[int(order[offset])])
        return chosen

    def sentences(self, indices: list[int], generator: torch.Generator) -> Tokens:
        """A caption for each picture, some without links, some without the words, some empty."""
        config = self.config
        picks = torch.rand(len(indices), generator=generator).numpy()
        counts = self.first[[i + 1 for i in indices]] - self.first[indices]
        numbers = torch.from_numpy(self.first[indices] + (picks * counts).astype(np.int64))
        ids, mask = self.captions.ids[numbers], self.captions.mask[numbers]
        entities = self.captions.entities[numbers]
        chance = torch.rand(3, len(indices), 1, generator=generator)
        hidden_words = (chance[0] < config.surface_dropout) & self.captions.own[numbers]
        ids = torch.where(hidden_words, self._other_words(ids, generator), ids)
        without = (chance[1] < config.link_dropout) & (chance[0] >= config.surface_dropout)
        entities = torch.where(without, NO_ENTITY, entities)
        empty = chance[2] < config.caption_dropout
        blank = self.tokenizer([""], [[]], 1)
        ids, mask = torch.where(empty, blank.ids, ids), torch.where(empty, blank.mask, mask)
        entities = torch.where(empty, NO_ENTITY, entities)
        return Tokens(ids, mask, self.vectors[entities], [None] * len(indices))

    def first_captions(self, indices: list[int], *, knowledge: bool = True) -> Tokens:
        """The plain caption of each picture, as a user would type it."""
        numbers = torch.from_numpy(self.first[indices])
        entities = self.captions.entities[numbers]
        if not knowledge:
            entities = torch.full_like(entities, NO_ENTITY)
        mask = self.captions.mask[numbers]
        vectors = self.vectors[entities]
        return Tokens(self.captions.ids[numbers], mask, vectors, [None] * len(indices))

    def _other_words(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Unknown or random pieces: what an alias never seen before looks like."""
        random = torch.randint(len(SPECIAL), len(self.tokenizer), ids.shape, generator=generator)
        unknown = torch.rand(len(ids), 1, generator=generator) < 0.5
        return torch.where(unknown, SPECIAL.index("[UNK]"), random)

    def _tokenise(self, texts: list[str]) -> Captions:
        """Link and tokenise each text; places carry entity number + 1 through the tokenizer."""
        owners = np.repeat(np.arange(len(self.rows)), np.diff(self.first))
        spans = [
            [
                EntitySpan(
                    torch.tensor([link.entity + 1.0], dtype=torch.float64), link.start, link.end
                )
                for link in self.graph.link(text)
            ]
            for text in texts
        ]
        tokens = self.tokenizer(texts, spans, 1)
        entities = tokens.entity_vectors[..., 0].long() - 1
        subjects = torch.tensor([self._subject(row) for row in self.rows])[torch.from_numpy(owners)]
        return Captions(tokens.ids, tokens.mask, entities, entities == subjects[:, None])

    def _subject(self, row: dict[str, Any]) -> int:
        return self.graph.entity(row["entity"]) if "entity" in row else NO_ENTITY - 1


def vocabulary_of(captions: list[str]) -> list[str]:
    """The characters of the training captions (as words and as continuations where not Chinese)."""
    characters = sorted({c for text in captions for c in text.lower() if not c.isspace()})
    latin = [f"##{c}" for c in characters if c.isascii() and c.isalnum()]
    return [*SPECIAL, *characters, *latin]


def to_signed(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _open_graph(path: Path) -> KnowledgeGraph:
    try:
        return KnowledgeGraph.open(path)
    except KnowledgeError as error:
        raise CheckpointError(
            path, f"{error}; build the data set first (see the recipe)"
        ) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metadata.jsonl`; `CheckpointError` names the file and the line at fault."""
    if not path.is_file():
        raise CheckpointError(path, "no such file; build the data set first (see the recipe)")
    # Not splitlines(): a caption may hold U+2028.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [_read_row(path, number, line) for number, line in enumerate(lines, 1) if line]
    if not rows:
        raise CheckpointError(path, "no rows")
    return rows


def _read_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CheckpointError(path, f"line {number} is not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("captions"), list):
        raise CheckpointError(path, f"line {number} has no list of `captions`")
    if not row["captions"] or not all(isinstance(text, str) for text in row["captions"]):
        raise CheckpointError(path, f"line {number}: `captions` needs one sentence at least")
    return row


def _read_pictures(path: Path, count: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise CheckpointError(path, "no such file; build the data set first (see the recipe)")
    try:
        pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise CheckpointError(path, f"is no whole array ({error}); build it again") from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise CheckpointError(
            path, f"{pictures.dtype} {pictures.shape}; uint8 (N, H, W, 3) is wanted"
        )
    if len(pictures) != count:
        raise CheckpointError(path, f"{len(pictures)} pictures for {count} rows; build them again")
    return pictures
