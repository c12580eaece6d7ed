"""The knowledge room at a size: `python benchmarks/knowledge_scale.py --names N [--out FILE]`.

Made-up Chinese names of two to five characters, one in ten of which two entities share; a type for
each entity, three facts more for those that share. Builds from an OwnThink file in a process of its
own, adds made-up vectors, then runs `python -m knowledge bench`. With `--folder` the files are
kept, and what is there already is not made again: 16 million names take 10 GB and some minutes.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# This folder comes first for `knowledge_build`, the one above for the package.
sys.path.insert(1, str(Path(__file__).parents[1]))

from knowledge_build import built

from knowledge.builder import add_vectors
from knowledge.versions import resolve

_FIRST, _CHARACTERS, _LONGEST = 0x4E00, 3000, 5
_BLOCK = 200_000
_DIMENSION = 128
_TYPES = ("城市", "动物", "水果", "品牌", "歌曲", "人物", "植物", "小说")


def names(count: int) -> npt.NDArray[np.str_]:
    """`count` different names of two to five characters, in no order."""
    chance, found = np.random.default_rng(0), np.zeros(0, np.uint64)
    while len(found) < count:
        # A name as one number, 12 bits a character, 0 where there is none.
        size = count - len(found) + count // 8
        codes = chance.integers(1, _CHARACTERS + 1, (size, _LONGEST), np.uint64)
        codes *= np.arange(_LONGEST) < chance.choice(
            np.arange(2, _LONGEST + 1), (size, 1), p=(0.05, 0.25, 0.4, 0.3)
        )
        numbers = (codes << np.arange(0, 60, 12, np.uint64)).sum(axis=1, dtype=np.uint64)
        found = np.unique(np.concatenate([found, numbers]))
    chosen = chance.permutation(found)[:count]
    digits = (chosen[:, None] >> np.arange(0, 60, 12, np.uint64)) & np.uint64(4095)
    written = np.where(digits, digits + np.uint64(_FIRST - 1), np.uint64(0)).astype(np.uint32)
    return np.ascontiguousarray(written).view(f"U{_LONGEST}")[:, 0]


def write_facts(path: Path, called: npt.NDArray[np.str_]) -> None:
    """Write the rows of all entities, a block at a time."""
    with path.open("w", encoding="utf-8") as file:
        file.write("实体,属性,值\n")
        for first in range(0, len(called), _BLOCK):
            file.writelines(_rows(called[first : first + _BLOCK].tolist()))


def _rows(block: list[str]) -> Iterator[str]:
    for number, name in enumerate(block):
        kind, other = _TYPES[number % 8], block[number * 7 % len(block)]
        yield f"{name},类型,{kind}\n"
        if number % 10 == 0:
            second = f"{name}[{_TYPES[(number + 3) % 8]}]"
            yield f"{second},类型,{_TYPES[(number + 3) % 8]}\n"
            for key in (name, second):
                yield f"{key},相关,{other}\n{key},产地,{other[:2]}的北面\n"
                yield f"{key},描述,{other}边上一种常见的{kind}，{key[:3]}得名于此\n"


def scale(count: int, folder: Path) -> dict[str, Any]:
    """Build, add vectors, measure; see the top of this file."""
    facts, store, report = folder / "facts.csv", folder / "store", folder / "build.json"
    if not report.exists():
        if not facts.exists():
            write_facts(facts, names(count))
        report.write_text(json.dumps(built(facts, store)), encoding="utf-8")
    if not (store / "CURRENT").exists():
        (plain,) = (path.parent for path in store.glob("*/manifest.json"))
        add_vectors(plain, _vectors(json.loads(report.read_text("utf-8"))["entities"]))
    command = [sys.executable, "-m", "knowledge", "bench", str(resolve(store)), "--json"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    build = json.loads(report.read_text("utf-8"))
    return {"names": count, "build": build, **json.loads(done.stdout)}


def _vectors(entities: int) -> npt.NDArray[np.float16]:
    rows = np.empty((entities, _DIMENSION), np.float16)
    block = np.random.default_rng(0).standard_normal((_BLOCK, _DIMENSION), np.float32)
    for first in range(0, entities, _BLOCK):
        rows[first : first + _BLOCK] = block[: entities - first]
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keeps the files; a temporary one by default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = scale(options.names, options.folder or Path(folder))
    result["command"] = f"python benchmarks/knowledge_scale.py --names {options.names}"
    result["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    text = json.dumps(result, ensure_ascii=False, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
