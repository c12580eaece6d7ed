"""Any format -> the folder that a training reads, whole or not at all."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from knowledge.builder import build_version
from knowledge.errors import UnknownEntityError
from knowledge.formats import read_facts
from knowledge.graph import KnowledgeGraph
from knowledge.versions import activate
from rapid_diffusion.datasets.checking import kind_of
from rapid_diffusion.datasets.growing import GrowingArray
from rapid_diffusion.datasets.pictures import Decoded, decode_all, square
from rapid_diffusion.datasets.rows import Problem, Row, RowError
from rapid_diffusion.errors import InvalidRequestError, OutputError

REFUSED = "refused.jsonl"
_HELD_OUT_NAMES = frozenset({"held_out", "test", "validation", "valid", "val", "dev"})


@dataclass(frozen=True)
class PrepareOptions:
    """Sides in pixels (`large_size` a multiple of `size`), the share held out, and the graph.

    The graph is copied from a store or version, or built from a file of facts (`triples`:
    `.jsonl`, or OwnThink's `.csv`).
    """

    size: int = 64
    large_size: int = 256
    held_out: float = 0.05
    graph: Path | None = None
    triples: Path | None = None

    def __post_init__(self) -> None:
        if self.size < 8 or self.large_size % self.size or self.large_size < self.size:
            raise InvalidRequestError(
                "size",
                f"{self.size} and {self.large_size}; 8 or more, the large one a multiple of it",
            )
        if not 0 <= self.held_out < 1:
            raise InvalidRequestError("held_out", f"{self.held_out}; allowed: 0 to below 1")
        if self.graph and self.triples:
            raise InvalidRequestError("graph", "given with --triples; one of them is enough")


@dataclass
class Prepared:
    """What a prepared folder holds."""

    train: int = 0
    held_out: int = 0
    refused: int = 0


def prepare(rows: Iterable[Row | Problem], out: Path, options: PrepareOptions) -> Prepared:
    """Write `out`: both picture arrays, `metadata.jsonl`, `refused.jsonl`, `graph/`.

    Nothing is at `out` before everything is; what an interrupted run left is cleared by the next.
    Raises `InvalidRequestError` (no sound row, `out` is in use) and `OutputError`.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InvalidRequestError("out", f"{out} exists; give another folder, or remove it")
    try:
        with _whole_folder(out) as folder:
            graph = _write_graph(folder / "graph", options)
            return _write_rows(rows, folder, options, graph)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}). Nothing was left there: "
            "check that you may write to it and that the disk has room."
        ) from error


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name after the block; removed if the block fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.preparing")
    with _only_one(out.with_name(f".{out.name}.lock"), out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
            for file in folder.iterdir():
                if file.is_file():
                    _flush(file)
            os.replace(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _only_one(lock: Path, out: Path) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{out}: another `data prepare` writes it; wait") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_graph(folder: Path, options: PrepareOptions) -> KnowledgeGraph | None:
    if options.graph is not None:
        given = KnowledgeGraph.open(options.graph, verify="full")
        shutil.copytree(given.path, folder / given.version)
        activate(folder, given.version)
    elif options.triples is not None:
        kind = "ownthink" if options.triples.suffix == ".csv" else "jsonl"
        facts = read_facts(options.triples, kind)
        build_version(facts.triples, facts.aliases, folder)
    else:
        return None
    return KnowledgeGraph.open(folder)


def _write_rows(
    rows: Iterable[Row | Problem],
    folder: Path,
    options: PrepareOptions,
    graph: KnowledgeGraph | None,
) -> Prepared:
    writer = _Writer(folder, options, graph)
    try:
        for item in decode_all(rows):
            writer.add(item)
        writer.finish()
    finally:
        writer.close()
    return writer.done


class _Writer:
    """The files of a folder that is being prepared."""

    def __init__(self, folder: Path, options: PrepareOptions, graph: KnowledgeGraph | None) -> None:
        self.done = Prepared()
        self._options, self._graph = options, graph
        self._reasons: dict[str, str] = {}
        self._arrays = {
            side: GrowingArray(folder / f"pictures_{side}.npy", (side, side, 3))
            for side in sorted({options.size, options.large_size})
        }
        self._metadata = (folder / "metadata.jsonl").open("w", encoding="utf-8")
        self._refused = (folder / REFUSED).open("w", encoding="utf-8")

    def add(self, item: Decoded | Problem) -> None:
        if isinstance(item, Problem):
            self._refuse(item)
            return
        try:
            self._check_entity(item.row)
            squares = {
                side: np.asarray(square(item.image, side, self._options.size))
                for side in self._arrays
            }
            split = self._split(item.row, squares[self._options.size].tobytes())
        except RowError as error:
            self._refuse(Problem(item.row.where, str(error)))
            return
        for side, pixels in squares.items():
            self._arrays[side].append(pixels)
        _write_line(self._metadata, self._record(item, split))
        if split == "train":
            self.done.train += 1
        else:
            self.done.held_out += 1

    def _record(self, item: Decoded, split: str) -> dict[str, Any]:
        width, height = item.image.size
        own = {"index": self.done.train + self.done.held_out, "where": item.row.where}
        sizes = {"width": width, "height": height}
        return {
            **own,
            **sizes,
            **item.row.facts,
            "split": split,
            "captions": list(item.row.captions),
        }

    def _check_entity(self, row: Row) -> None:
        if "entity" not in row.facts or self._graph is None:
            return
        try:
            self._graph.entity(row.facts["entity"])
        except (UnknownEntityError, TypeError) as error:
            raise RowError(f"its `entity` is not in the graph ({error})") from error

    def _split(self, row: Row, pixels: bytes) -> str:
        """As the row says; else by its pixels, so that doubles are never on both sides."""
        said = row.facts.get("split")
        if said is None:
            digest = hashlib.blake2b(pixels, digest_size=8).digest()
            held = int.from_bytes(digest) < self._options.held_out * 2**64
            return "held_out" if held else "train"
        if said == "train":
            return "train"
        if said in _HELD_OUT_NAMES:
            return "held_out"
        raise RowError(f"its `split` is {said!r:.40}; train, held_out, test and validation exist")

    def _refuse(self, problem: Problem) -> None:
        self.done.refused += 1
        self._reasons.setdefault(kind_of(problem.reason), problem.where)
        _write_line(self._refused, {"where": problem.where, "reason": problem.reason})

    def finish(self) -> None:
        if not self.done.train:
            reasons = "; ".join(f"{where}: {why}" for why, where in self._reasons.items())
            raise InvalidRequestError("path", f"no sound row to train on. {reasons:.2000}")
        for array in self._arrays.values():
            array.finish()

    def close(self) -> None:
        for array in self._arrays.values():
            array.close()
        self._metadata.close()
        self._refused.close()


def _write_line(file: TextIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
