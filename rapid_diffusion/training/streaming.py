"""Training straight from tar shards, for sets that do not fit a folder or the memory.

The rows of a step are a function of (seed, step): every epoch is a permutation of the shards, taken
a few at a time (a window) whose rows are shuffled together. To go on at a step, only the number of
rows of each shard is needed, never their content.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rapid_diffusion.datasets.pictures import decode, square
from rapid_diffusion.datasets.rows import Problem, RowError
from rapid_diffusion.datasets.shards import content_of, words_of
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.seeds import mixed_seed
from rapid_diffusion.text.tokens import TextTokenizer, Tokens
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.data import open_graph, to_signed, vocabulary_of
from rapid_diffusion.training.sentences import Captions, Sentences, View
from rapid_diffusion.training.shard_index import Refusals, ShardIndex

#: Shards whose rows are shuffled together.
WINDOW = 4
#: Rows kept decoded, so that a step's picture and sentence are read once.
KEPT_ROWS = 512
#: A row's number is shard · ROWS_PER_SHARD + place in the shard.
ROWS_PER_SHARD = 2**32
#: Broken rows in a row after which a shard is taken for no picture set.
MOST_BROKEN = 1000
REFUSED = "refused.jsonl"


@dataclass(frozen=True)
class _Window:
    """The rows shown from place `start` to before `end`, counted from the first step."""

    start: int
    end: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Loaded:
    """A row that can be shown."""

    picture: NDArray[np.uint8]
    captions: tuple[str, ...]
    subject: int


class ShardExamples:
    """What `Examples` offers to the stages, read from WebDataset shards as it is needed.

    A row that turns out to be broken is named in `OUTPUT/refused.jsonl`, and the next sound one of
    its shard is shown in its place, so that a step stays a function of (seed, step).

    Raises `CheckpointError` where a shard or the graph is missing, or no row is sound.
    """

    def __init__(self, config: DataConfig, max_length: int, output: Path | None = None) -> None:
        self.config = config
        self.output = output
        self.refusals = Refusals(output / REFUSED if output else None)
        cache = output / "index" if output else None
        self.index = ShardIndex(str(Path(config.folder) / config.shards), cache, self.refusals)
        self.graph = open_graph(Path(config.folder) / config.graph)
        words = vocabulary_of([_characters(config.vocabulary)])
        self.tokenizer = TextTokenizer.from_vocabulary(words, max_length)
        self._sentences = Sentences(config, self.graph, self.tokenizer)
        self.held_out: list[int] = []
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._broken: set[int] = set()
        self._lock = threading.RLock()

    @property
    def side(self) -> int:
        """Side of the pictures in pixels."""
        return self.config.size

    @property
    def large_side(self) -> int:
        """Side of the large pictures in pixels."""
        return self.config.large_size

    @property
    def pictures(self) -> "ShardPictures":
        """The pictures by row number."""
        return ShardPictures(self, self.config.size)

    def large_pictures(self) -> "ShardPictures":
        """The same pictures at the size the upscaler aims at."""
        return ShardPictures(self, self.config.large_size)

    def picture_batch(self, indices: list[int]) -> Tensor:
        """(B, 3, H, W) in [-1, 1]."""
        return to_signed(np.stack([self._row(index)[1].picture for index in indices]))

    def some_pictures(self, most: int) -> Tensor:
        """The first pictures of an epoch of their own, `most` or all: (N, 3, H, W) in [-1, 1]."""
        return self.picture_batch(self.fixed_rows(most))

    def fixed_rows(self, count: int) -> list[int]:
        """The same rows each time: the first of an epoch of their own, `count` or one window."""
        return [int(row) for row in self._window(0, mixed_seed(0)).rows[:count]]

    def first_texts(self, indices: list[int]) -> list[str]:
        """The first caption of each row, as it was written."""
        return [self._row(index)[1].captions[0] for index in indices]

    def indices(self, step: int, batch: int, seed: int) -> list[int]:
        """The rows of a step; equal numbers are the same row."""
        chosen = []
        for place in range(step * batch, (step + 1) * batch):
            window = self._window(place, seed)
            chosen.append(int(window.rows[place - window.start]))
        return chosen

    def sentences(
        self, indices: list[int], generator: torch.Generator, view: View = "mixed"
    ) -> Tokens:
        """A caption for each picture, varied as `view` says; some are empty."""
        picks = torch.rand(len(indices), generator=generator).tolist()
        return self._sentences.vary(self._captions(indices, picks), generator, view)

    def first_captions(self, indices: list[int], *, knowledge: bool = True) -> Tokens:
        """The plain caption of each picture, as a user would type it."""
        captions = self._captions(indices, [0.0] * len(indices))
        return self._sentences.plain(captions, knowledge=knowledge)

    def square(self, index: int, size: int) -> NDArray[np.uint8]:
        """One picture at another size: (size, size, 3)."""
        with self._lock:
            number = self._row(index)[0]
            return np.asarray(square(self._decode(number), size, self.config.size))

    def _captions(self, indices: list[int], picks: list[float]) -> Captions:
        rows = [self._row(index)[1] for index in indices]
        pairs = zip(rows, picks, strict=True)
        texts = [row.captions[int(pick * len(row.captions))] for row, pick in pairs]
        return self._sentences.tokenise(texts, [row.subject for row in rows])

    def _row(self, index: int) -> tuple[int, _Loaded]:
        """The row itself, or the next one of its shard that is sound, with its number."""
        with self._lock:
            shard, row = divmod(index, ROWS_PER_SHARD)
            count = self.index.count(shard)
            for step in range(min(count, MOST_BROKEN)):
                number = shard * ROWS_PER_SHARD + (row + step) % count
                if loaded := self._load(number):
                    return number, loaded
        raise CheckpointError(
            self.index.shards[shard], f"no row can be shown: {min(count, MOST_BROKEN)} are broken"
        )

    def _load(self, number: int) -> _Loaded | None:
        if number in self._broken:
            return None
        if number not in self._loaded:
            try:
                self._loaded[number] = self._read(number)
            except RowError as error:
                where = self.index.name(*divmod(number, ROWS_PER_SHARD))
                self.refusals.add(Problem(where, str(error)))
                self._broken.add(number)
                return None
        self._loaded.move_to_end(number)
        while len(self._loaded) > KEPT_ROWS:
            self._loaded.popitem(last=False)
        return self._loaded[number]

    def _read(self, number: int) -> _Loaded:
        shard, row = divmod(number, ROWS_PER_SHARD)
        parts = self.index.parts(shard, row)
        with self.index.open(shard) as file:
            captions, facts = words_of(file, parts)
        try:
            subject = self._sentences.subject(facts)
        except (LookupError, TypeError) as error:
            raise RowError(f"its `entity` is not in the graph ({error})") from error
        picture = np.asarray(square(self._decode(number), self.config.size))
        return _Loaded(picture, captions, subject)

    def _decode(self, number: int) -> Image.Image:
        shard, row = divmod(number, ROWS_PER_SHARD)
        member = self.index.parts(shard, row)["picture"]
        with self.index.open(shard) as file:
            return decode(content_of(file, member))

    def _window(self, place: int, seed: int) -> _Window:
        """The window that holds a place; the one asked for last is kept for each seed."""
        with self._lock:
            window = self._windows.get(seed)
            if window is None or not window.start <= place < window.end:
                window = self._windows[seed] = self._find_window(place, seed)
            return window

    def _find_window(self, place: int, seed: int) -> _Window:
        start, epoch = 0, 0
        shards = len(self.index.shards)
        while True:
            before = start
            generator = torch.Generator().manual_seed(mixed_seed(seed + 1, epoch))
            order = torch.randperm(shards, generator=generator).tolist()
            for first in range(0, shards, WINDOW):
                chosen = order[first : first + WINDOW]
                end = start + sum(self.index.count(shard) for shard in chosen)
                if place < end:
                    return _Window(start, end, self._shuffled(chosen, seed, epoch, first))
                start = end
            if start == before:
                raise CheckpointError(self.index.shards[0].parent, "no sound row in any shard")
            # All shards are counted now, so whole epochs can be passed over.
            epochs = (place - start) // (start - before)
            epoch, start = epoch + 1 + epochs, start + epochs * (start - before)

    def _shuffled(self, shards: list[int], seed: int, epoch: int, first: int) -> NDArray[np.int64]:
        rows = np.concatenate(
            [shard * ROWS_PER_SHARD + np.arange(self.index.count(shard)) for shard in shards]
        )
        generator = torch.Generator().manual_seed(mixed_seed(seed + 1, epoch, first + 1))
        return rows[torch.randperm(len(rows), generator=generator).numpy()]


class ShardPictures:
    """Pictures of one size, read as they are indexed: `pictures[row, top:bottom, left:right]`."""

    def __init__(self, examples: ShardExamples, side: int) -> None:
        self._examples = examples
        self.side = side

    def __getitem__(self, key: tuple[int, slice, slice]) -> NDArray[np.uint8]:
        index, rows, columns = key
        return self._examples.square(index, self.side)[rows, columns]


def _characters(path: str) -> str:
    """The characters of a text file; without one those of GB 2312: 6,763 ideographs and signs.

    A vocabulary made of the captions would have to read them all before the first step.
    """
    if path:
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(path, f"gives no vocabulary ({error})") from error
    pairs = (bytes([row, cell]) for row in range(0xA1, 0xF8) for cell in range(0xA1, 0xFF))
    wide = b"".join(pairs).decode("gb2312", "ignore")
    return wide + "".join(map(chr, range(0x21, 0x7F)))
