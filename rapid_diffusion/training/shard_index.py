"""Where each row of a tar shard lies: read once from the headers, then kept as a small file."""

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rapid_diffusion.datasets.rows import Problem, printable
from rapid_diffusion.datasets.shards import ENDINGS, find_shards, whole_samples
from rapid_diffusion.datasets.tar import BLOCK, Member, read_at
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.files import replacing

logger = logging.getLogger(__name__)

#: Offset and size of each member; -1 where a row has none.
KINDS = ("picture", "txt", "json")
KEPT_SHARDS = 16
Places = NDArray[np.int64]


class Refusals:
    """Every row that cannot be used, once: a log line, and a line in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.problems: dict[str, str] = {}
        if path is not None and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.problems = {row["where"]: row["reason"] for row in _whole_lines(lines)}

    def add(self, problem: Problem) -> None:
        """Note a broken row, unless it is noted already."""
        if problem.where in self.problems:
            return
        self.problems[problem.where] = problem.reason
        logger.warning("refused: %s: %s", problem.where, problem.reason)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            row = {"where": problem.where, "reason": problem.reason}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _whole_lines(lines: list[str]) -> list[dict[str, str]]:
    """The last line may have been cut by a kill."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class ShardIndex:
    """Shards in order, and the places of their rows; a shard is read when it is first asked for.

    `cache` is a folder for the places, whose files are named by the shard's name, size and time;
    None keeps them in memory only. Raises `CheckpointError` for a missing or a packed shard.
    """

    def __init__(self, pattern: str, cache: Path | None, refusals: Refusals) -> None:
        self.shards = _plain_shards(pattern)
        self._cache, self._refusals = cache, refusals
        self._counts: dict[int, int] = {}
        self._places: OrderedDict[int, Places] = OrderedDict()
        self._lock = threading.RLock()

    def count(self, shard: int) -> int:
        """How many rows a shard has, going by the names of its members."""
        if shard not in self._counts:
            self._counts[shard] = len(self._read(shard))
        return self._counts[shard]

    def places(self, shard: int) -> Places:
        """(rows, 6) offsets and sizes of a shard's members; the last few shards are kept."""
        with self._lock:
            if shard not in self._places:
                self._places[shard] = np.asarray(self._read(shard))
            self._places.move_to_end(shard)
            while len(self._places) > KEPT_SHARDS:
                self._places.popitem(last=False)
            return self._places[shard]

    def parts(self, shard: int, row: int) -> dict[str, Member]:
        """The members of one row."""
        numbers = self.places(shard)[row].reshape(-1, 2).tolist()
        return {
            kind: Member(kind, offset, size)
            for kind, (offset, size) in zip(KINDS, numbers, strict=True)
            if offset >= 0
        }

    def open(self, shard: int) -> BinaryIO:
        """The shard, to read a row from; closed by the caller."""
        return self.shards[shard].open("rb", buffering=0)

    def name(self, shard: int, row: int) -> str:
        """What a report calls a row: its shard and the name of its picture."""
        offset = int(self.places(shard)[row, 0])
        with self.open(shard) as file:
            header = read_at(file, offset - BLOCK, 100)
        name = header.partition(b"\0")[0].decode(errors="replace")
        return f"{self.shards[shard].name}:{printable(name)}"

    def _read(self, shard: int) -> Places:
        path = self._cached(shard)
        if path is None:
            return self._scan(shard)
        if not path.is_file():
            places = self._scan(shard)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, places)
        mapped: Places = np.load(path, mmap_mode="r")
        return mapped

    def _cached(self, shard: int) -> Path | None:
        if self._cache is None:
            return None
        path = self.shards[shard]
        status = path.stat()
        facts = f"{path.resolve()}/{status.st_size}/{status.st_mtime_ns}"
        digest = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
        return self._cache / f"{path.stem}-{digest}.npy"

    def _scan(self, shard: int) -> Places:
        """Read a shard's headers; what is no row is refused by name."""
        path, rows, keys = self.shards[shard], [], set()
        with path.open("rb", buffering=1 << 12) as file:
            for sample in whole_samples(file, path.name):
                if isinstance(sample, Problem):
                    self._refusals.add(sample)
                    continue
                flaw = sample.flaw or ("its key was given before" if sample.key in keys else None)
                if flaw:
                    self._refusals.add(Problem(f"{path.name}:{printable(sample.key)}", flaw))
                    continue
                keys.add(sample.key)
                members = [sample.parts.get(kind, Member("", -1, -1)) for kind in KINDS]
                rows.append([number for m in members for number in (m.offset, m.size)])
        return np.array(rows, np.int64).reshape(-1, 2 * len(KINDS))


def _plain_shards(pattern: str) -> list[Path]:
    try:
        shards = find_shards(pattern)
    except InvalidRequestError as error:
        raise CheckpointError(pattern, "no shard is there") from error
    for shard in shards:
        if shard.name.endswith(ENDINGS[1:]):
            raise CheckpointError(
                shard, "is compressed, so no row can be reached alone; unpack it with gunzip first"
            )
        if not shard.is_file():
            raise CheckpointError(shard, "no such shard, though the pattern names it")
    return shards
