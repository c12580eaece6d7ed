"""(picture, sentence) -> links -> tokens and entities, drawn anew at every step.

Everything random is a function of (seed, step), so that a training that was killed goes on with
exactly the examples it would have seen.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.seeds import mixed_seed
from rapid_diffusion.text.tokens import SPECIAL, TextTokenizer, Tokens
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.sentences import NO_ENTITY, Sentences, View

if TYPE_CHECKING:
    from rapid_diffusion.text.clip import ContrastivePair

_PICTURES_AT_ONCE = 64


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step."""
    return torch.Generator().manual_seed(mixed_seed(seed, step))


class Examples:
    """Pictures, their captions as tokens, and the entity vectors of the graph.

    `output` is the training's folder: latents are kept below it; None keeps nothing on disk.
    A model that learns on brings its `tokenizer` and `graph`, and perhaps `rows` that were changed
    to fit it; else all three come from the data folder. `beside` is a second folder of rows and
    pictures, whose rows follow those of the first.

    Raises `CheckpointError` naming the file that is missing or does not fit the others.
    """

    def __init__(
        self,
        config: DataConfig,
        max_length: int,
        output: Path | None = None,
        *,
        tokenizer: TextTokenizer | None = None,
        graph: KnowledgeGraph | None = None,
        rows: list[dict[str, Any]] | None = None,
        beside: Path | None = None,
    ) -> None:
        folder = Path(config.folder)
        self.config = config
        self.output = output
        self.rows = read_rows(folder / "metadata.jsonl") if rows is None else rows
        self.pictures = _read_pictures(folder / config.pictures, len(self.rows))
        if beside is not None:
            self._add(beside)
        self.large_path = folder / config.large_pictures
        self.graph = open_graph(folder / config.graph) if graph is None else graph
        self.train = [i for i, row in enumerate(self.rows) if row.get("split", "train") == "train"]
        if not self.train:
            raise CheckpointError(folder / "metadata.jsonl", "no row of the split `train`")
        self.held_out = [i for i, row in enumerate(self.rows) if row.get("split") == "held_out"]
        captions = [row["captions"] for row in self.rows]
        if tokenizer is None:
            words = vocabulary_of([c for i in self.train for c in captions[i]])
            tokenizer = TextTokenizer.from_vocabulary(words, max_length)
        self.tokenizer = tokenizer
        self._sentences = Sentences(config, self.graph, self.tokenizer)
        self.first = np.cumsum([0, *[len(group) for group in captions]])
        subjects = [self._sentences.subject(row) for row in self.rows]
        self.captions = self._sentences.tokenise(
            [text for group in captions for text in group],
            np.repeat(subjects, np.diff(self.first)).tolist(),
        )

    def _add(self, folder: Path) -> None:
        rows = read_rows(folder / "metadata.jsonl")
        pictures = _read_pictures(folder / self.config.pictures, len(rows))
        if pictures.shape[1:] != self.pictures.shape[1:]:
            raise CheckpointError(
                folder / self.config.pictures,
                f"pictures of {pictures.shape[1:3]}; those beside them are of"
                f" {self.pictures.shape[1:3]}",
            )
        self.rows = [*self.rows, *rows]
        self.pictures = np.concatenate([self.pictures, pictures])

    @property
    def side(self) -> int:
        """Side of the pictures in pixels."""
        return int(self.pictures.shape[1])

    @property
    def large_side(self) -> int:
        """Side of the large pictures in pixels."""
        return int(self.large_pictures().shape[1])

    def large_pictures(self) -> NDArray[np.uint8]:
        """The same pictures at the size the upscaler aims at, mapped from disk."""
        return _read_pictures(self.large_path, len(self.rows))

    def picture_batch(self, indices: list[int]) -> Tensor:
        """(B, 3, H, W) in [-1, 1]."""
        return to_signed(self.pictures[indices])

    def some_pictures(self, most: int) -> Tensor:
        """Up to `most` pictures of the training, evenly spread: (N, 3, H, W) in [-1, 1]."""
        step = -(-len(self.train) // most)
        return to_signed(self.pictures[self.train[::step]])

    def fixed_rows(self, count: int) -> list[int]:
        """Up to `count` rows to look at again and again, spread over the held-out ones if any."""
        rows = self.held_out or self.train
        places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
        return [rows[place] for place in places]

    def first_texts(self, indices: list[int]) -> list[str]:
        """The first caption of each row, as it was written."""
        return [str(self.rows[index]["captions"][0]) for index in indices]

    def indices(self, step: int, batch: int, seed: int) -> list[int]:
        """The pictures of a step: each pass over the data is its own permutation."""
        chosen: list[int] = []
        for place in range(step * batch, (step + 1) * batch):
            epoch, offset = divmod(place, len(self.train))
            if not chosen or offset == 0:
                order = torch.randperm(len(self.train), generator=step_generator(seed + 1, epoch))
            chosen.append(self.train[int(order[offset])])
        return chosen

    def sentences(
        self, indices: list[int], generator: torch.Generator, view: View = "mixed"
    ) -> Tokens:
        """A caption for each picture, varied as `view` says; some are empty."""
        picks = torch.rand(len(indices), generator=generator).numpy()
        counts = self.first[[i + 1 for i in indices]] - self.first[indices]
        numbers = torch.from_numpy(self.first[indices] + (picks * counts).astype(np.int64))
        return self._sentences.vary(self.captions.at(numbers), generator, view)

    def first_captions(self, indices: list[int], *, knowledge: bool = True) -> Tokens:
        """The plain caption of each picture, as a user would type it."""
        numbers = torch.from_numpy(self.first[indices])
        return self._sentences.plain(self.captions.at(numbers), knowledge=knowledge)

    def typed(self, texts: list[str], *, knowledge: bool = True) -> Tokens:
        """Sentences of one's own, as a user would type them, linked to the graph or not."""
        captions = self._sentences.tokenise(texts, [NO_ENTITY] * len(texts))
        return self._sentences.plain(captions, knowledge=knowledge)

    @torch.inference_mode()
    def picture_features(self, pair: "ContrastivePair", device: torch.device) -> Tensor:
        """What the image tower makes of every picture, in the order of `rows`: (N, F)."""
        rows, size = list(range(len(self.rows))), _PICTURES_AT_ONCE
        parts = (rows[start : start + size] for start in range(0, len(rows), size))
        batches = (self.picture_batch(part).to(device) for part in parts)
        return torch.cat([pair.image_features(batch) for batch in batches])


def vocabulary_of(captions: list[str]) -> list[str]:
    """The characters of the training captions (as words and as continuations where not Chinese)."""
    characters = sorted({c for text in captions for c in text.lower() if not c.isspace()})
    latin = [f"##{c}" for c in characters if c.isascii() and c.isalnum()]
    return [*SPECIAL, *characters, *latin]


def to_signed(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_graph(path: Path) -> KnowledgeGraph:
    """The graph of a data folder; `CheckpointError` names the folder where there is none."""
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
    return read_lines(path, _fault_of_row)


def read_lines(path: Path, fault: Callable[[Any], str]) -> list[Any]:
    """What the lines of a JSONL file say; `fault` tells what is wrong with one, or nothing.

    Raises `CheckpointError` naming the file and the line at fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read ({error})") from error
    # Not splitlines(): a caption may hold U+2028.
    lines = enumerate(text.removesuffix("\n").split("\n"), 1)
    rows = [_read_line(path, number, line, fault) for number, line in lines if line]
    if not rows:
        raise CheckpointError(path, "no rows")
    return rows


def _read_line(path: Path, number: int, line: str, fault: Callable[[Any], str]) -> Any:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CheckpointError(path, f"line {number} is not JSON ({error})") from error
    if told := fault(row):
        raise CheckpointError(path, f"line {number}{told}")
    return row


def _fault_of_row(row: Any) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("captions"), list):
        return " has no list of `captions`"
    if not row["captions"] or not all(isinstance(text, str) for text in row["captions"]):
        return ": `captions` needs one sentence at least"
    return ""


def _read_pictures(path: Path, count: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise CheckpointError(path, "no such file; `data prepare` writes it, named by its --size")
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
