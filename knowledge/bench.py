"""What a store costs here: opening, linking, facts, vectors, exchanging, one process more (Linux).

Calls are timed in CPU time of the calling thread, opening and exchanging in wall time. The files
are in the page cache, as after `GraphStore.reload`; what a process pays for the first touch of a
page shows in the first round of texts.
"""

import gc
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.errors import InvalidInputError
from knowledge.graph import KnowledgeGraph
from knowledge.storage import replace_text
from knowledge.store import GraphStore, warm_up
from knowledge.versions import CURRENT, MANIFEST

_LENGTH = 64  # characters of a text
_TEXTS = 2000
_FILLER = "的在了和着有是很多正"
_SWAPS = 50
# A process of its own: what it holds alone after opening and linking, beside what modules take.
_FURTHER = """
import sys
from pathlib import Path
from knowledge.bench import private_bytes, texts
from knowledge.graph import KnowledgeGraph
before, graph = private_bytes(), KnowledgeGraph.open(Path(sys.argv[1]))
for text in texts(graph, 200):
    graph.vectors([link.entity for link in graph.link(text)])
print(private_bytes() - before)
"""


def measure(path: str | Path) -> dict[str, Any]:
    """Measure the version that `path` means; exchanging only where its store has another one."""
    start = time.perf_counter()
    graph = KnowledgeGraph.open(path)
    opened = time.perf_counter() - start
    if not len(graph):
        raise InvalidInputError(f"{path} has no entity; wanted a graph to measure")
    versions = sorted(path.parent for path in graph.path.parent.glob(f"*/{MANIFEST}"))
    others = [version for version in versions if version != graph.path][:1]
    for version in (graph.path, *others):
        warm_up(version)
    wanted = texts(graph, _TEXTS)
    rounds = [timed(lambda number: graph.link(wanted[number]), _TEXTS) for _ in range(2)]
    found = [len(graph.link(text)) for text in wanted[:200]]
    ids = np.random.default_rng(1).integers(0, len(graph), (200, 32))
    vectors = timed(lambda number: graph.vectors(ids[number % 200]), 2200)[200:]
    return {
        "entities": len(graph),
        "surfaces": graph.stats["surfaces"],
        "triples": graph.stats["triples"],
        "bytes_per_triple_on_disk": _bytes_per_triple(graph),
        "open_ms": round(opened * 1000, 2),
        "links_per_text": sum(found) / len(found),
        f"link_{_LENGTH}_characters_first_round": percentiles(rounds[0]),
        f"link_{_LENGTH}_characters": percentiles(rounds[1]),
        "neighbours": percentiles(
            timed(lambda number: graph.neighbours(int(ids[number // 32, number % 32])), 2000)
        ),
        "vectors_of_32_warm": percentiles(vectors),
        "private_bytes_of_a_further_process": further_process(graph),
        "swaps": swap(graph.path, others[0], wanted) if others else None,
    }


def texts(graph: KnowledgeGraph, count: int) -> list[str]:
    """Texts of 64 characters, names of the graph with filler between them."""
    chance = random.Random(0)
    made = []
    for _ in range(count):
        text = ""
        while len(text) < _LENGTH:
            text += graph.name(chance.randrange(len(graph))) + "".join(
                chance.choices(_FILLER, k=12)
            )
        made.append(text[:_LENGTH])
    return made


def timed(action: Callable[[int], object], count: int) -> list[float]:
    """CPU microseconds of `action(0)` ... `action(count - 1)`."""
    times = []
    for number in range(count):
        start = time.thread_time_ns()
        action(number)
        times.append((time.thread_time_ns() - start) / 1000)
    return times


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50 and p99, microseconds."""
    return {f"p{level}_us": round(float(np.percentile(times, level)), 1) for level in (50, 99)}


def private_bytes() -> int:
    """Memory that this process adds to the machine's, of /proc.

    Pages of mapped files that nobody wrote to are the page cache's, there once for all processes.
    """
    rows = Path("/proc/self/smaps_rollup").read_text("utf-8").splitlines()
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Private_Dirty"))


def further_process(graph: KnowledgeGraph) -> int:
    """The bytes that one more process with this graph adds, modules left out."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _FURTHER, str(graph.path)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=600
    )
    return int(done.stdout)


def swap(one: Path, other: Path, wanted: Sequence[str]) -> dict[str, float]:
    """50 swaps under a thread that links: its longest look-up, and the longest swap, wall time.

    Versions are checked by size only and not warmed: what is timed is the exchange. A look-up that
    fails ends the measurement with its error. Python's full collections, which stop every thread
    for some 30 ms and have nothing to do with graphs, are spared what was there before.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        for version in (one, other):
            (Path(folder) / version.name).symlink_to(version.resolve())
        replace_text(Path(folder) / CURRENT, one.name)
        store, stop, longest = GraphStore(folder), threading.Event(), 0.0
        gc.freeze()
        reader = pool.submit(_read, store, wanted, stop)
        try:
            for number in range(_SWAPS):
                replace_text(Path(folder) / CURRENT, (other, one)[number % 2].name)
                start = time.perf_counter()
                store.reload(verify="quick", warm=False)
                longest = max(longest, time.perf_counter() - start)
        finally:
            stop.set()
            gc.unfreeze()
        waits = reader.result()
    return {
        "swaps": _SWAPS,
        "look_ups": len(waits),
        "longest_look_up_ms": round(max(waits) * 1000, 2),
        "look_ups_over_20_ms": sum(wait > 0.02 for wait in waits),
        "longest_swap_ms": round(longest * 1000, 2),
    }


def _read(store: GraphStore, wanted: Sequence[str], stop: threading.Event) -> list[float]:
    """Link until told to stop, at least once; the seconds of each text."""
    waits: list[float] = []
    while not waits or not stop.is_set():
        start = time.perf_counter()
        graph = store.graph
        for link in graph.link(wanted[len(waits) % len(wanted)]):
            graph.neighbours(link.entity, limit=1)
        waits.append(time.perf_counter() - start)
    return waits


def _bytes_per_triple(graph: KnowledgeGraph) -> float:
    files = (path for path in graph.path.iterdir() if path.name.startswith(("tri_", "val")))
    return round(sum(path.stat().st_size for path in files) / max(graph.stats["triples"], 1), 1)
