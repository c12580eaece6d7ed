"""The knowledge room at a size: `python benchmarks/knowledge_scale.py --names N [--out FILE]`.

Made-up Chinese names, one in ten shared by two entities; three facts an entity. Times are CPU time
of this thread (link, neighbours, vectors, build) or wall time (open, swap), as the names say.
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# benchmarks/knowledge_scale.py would hide the package: the folder above comes first instead.
sys.path.insert(0, str(Path(__file__).parents[1]))

from knowledge.builder import add_vectors, build_version
from knowledge.graph import KnowledgeGraph
from knowledge.store import GraphStore
from knowledge.versions import activate

_CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
_FACTS = 3


def names(count: int, chance: random.Random) -> list[str]:
    """`count` different names of two to six characters, in no order."""
    found: set[str] = set()
    while len(found) < count:
        found.add("".join(chance.choices(_CHARACTERS, k=chance.randint(2, 6))))
    return chance.sample(sorted(found), count)


def facts(called: list[str], chance: random.Random) -> list[tuple[str, str, str]]:
    """Three facts for each entity; every tenth name belongs to two."""
    keys = [*called, *(f"{name}[第二义]" for name in called[::10])]
    return [
        (key, f"关系{number}", chance.choice(called)) for key in keys for number in range(_FACTS)
    ]


def percentiles(action: Callable[[int], object], count: int) -> dict[str, float]:
    """p50 and p99 of the CPU time of `action(0 ... count - 1)`, microseconds."""
    times = []
    for number in range(count):
        start = time.thread_time_ns()
        action(number)
        times.append((time.thread_time_ns() - start) / 1000)
    return {f"p{level}_us": round(float(np.percentile(times, level)), 1) for level in (50, 99)}


def sentences(called: list[str], chance: random.Random, count: int) -> list[str]:
    """Texts of 64 characters, about a quarter of them in names."""
    filler = "的在了和着一个有是很多正"
    made = []
    for _ in range(count):
        text = ""
        while len(text) < 64:
            text += chance.choice(called) + "".join(chance.choices(filler, k=12))
        made.append(text[:64])
    return made


def private_bytes() -> int:
    """Memory of this process that it shares with no other, of /proc (Linux)."""
    rows = Path("/proc/self/smaps_rollup").read_text("utf-8").splitlines()
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Private_"))


def swap(path: Path, versions: list[str]) -> dict[str, float]:
    """The longest of 50 swaps without the check of bytes, wall milliseconds."""
    store, longest = GraphStore(path), 0.0
    for number in range(50):
        activate(path, versions[number % 2])
        start = time.perf_counter()
        store.reload(verify="quick", warm=False)
        longest = max(longest, time.perf_counter() - start)
    return {"reload_longest_of_50_ms": round(longest * 1000, 2)}


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Build a graph of `count` names in `folder` and take the times of every call."""
    chance = random.Random(0)
    called = names(count, chance)
    triples = facts(called, chance)
    start = time.process_time()
    plain = build_version(triples, [], folder)
    built = time.process_time() - start
    entities = count + len(called[::10])
    rows = np.random.default_rng(0).standard_normal((entities, 128), np.float32)
    trained = add_vectors(plain, rows)
    before, start = private_bytes(), time.perf_counter()
    graph = KnowledgeGraph.open(folder)
    opened = time.perf_counter() - start
    texts = sentences(called, chance, 2000)
    links = percentiles(lambda number: graph.link(texts[number]), len(texts))
    after = private_bytes()
    ids = np.random.default_rng(1).integers(0, entities, (2000, 32))
    return {
        "names": count,
        "entities": len(graph),
        "triples": len(triples),
        "build_triples_per_cpu_second": round(len(triples) / built),
        "bytes_per_triple_on_disk": round(_triple_bytes(trained) / len(triples), 1),
        "open_wall_ms": round(opened * 1000, 2),
        "link_64_characters": links,
        "links_per_text": round(sum(len(graph.link(text)) for text in texts[:200]) / 200, 2),
        "private_bytes_of_open_and_links": after - before,
        "neighbours": percentiles(lambda number: graph.neighbours(int(ids[number, 0])), 2000),
        "vectors_of_32": percentiles(lambda number: graph.vectors(ids[number]), 2000),
        **swap(folder, [plain.name, trained.name]),
    }


def _triple_bytes(version: Path) -> int:
    return sum(path.stat().st_size for path in version.iterdir() if path.name.startswith("tri_"))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.names, Path(folder))
    result["command"] = f"python benchmarks/knowledge_scale.py --names {options.names}"
    result["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    text = json.dumps(result, ensure_ascii=False, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
