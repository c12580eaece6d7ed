"""Entity vectors: `python benchmarks/transe.py PART [PART ...] [--codex DIR] [--out FILE]`.

Parts, each in CPU time of one thread, written beside those that the file has already:
    codex   CoDEx-S (a folder with train.txt, valid.txt, test.txt) within a minute
    equal   CoDEx-S, PyKEEN's in the CPU time that ours takes     (needs `pip install pykeen`)
    umls    UMLS, ours and PyKEEN's, equal epochs, three seeds                    (PyKEEN too)
    speed   CoDEx-S, ours and PyKEEN's, equal dimension, negatives and batch      (PyKEEN too)
    size    16 million entities of 128 numbers: memory and rate of a short run    (5 GB of memory)
"""

import argparse
import json
import logging
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# benchmarks/knowledge_scale.py would hide the package: the folder above comes first instead.
sys.path.insert(0, str(Path(__file__).parents[1]))

from knowledge.ranking import evaluate
from knowledge.transe import TransEConfig, fit

Triples = npt.NDArray[np.int64]
CODEX = TransEConfig(dimension=256, epochs=40, batch_size=512, negatives=128)
UMLS = TransEConfig(dimension=64, epochs=60, batch_size=256, negatives=32, margin=3.0)
SPEED = TransEConfig(dimension=128, epochs=1, batch_size=1024, negatives=128)
ENTITIES, FACTS = 16_000_000, 2_000_000


def read(folder: Path) -> tuple[list[Triples], int, int]:
    """Train, valid and test, and how many entities and relations there are."""
    files = [(folder / f"{part}.txt").read_text("utf-8") for part in ("train", "valid", "test")]
    rows = [[line.split("\t") for line in text.splitlines()] for text in files]
    entities = {
        key: n for n, key in enumerate(sorted({k for p in rows for r in p for k in r[::2]}))
    }
    relations = {key: n for n, key in enumerate(sorted({r[1] for p in rows for r in p}))}
    found = [np.array([(entities[h], relations[r], entities[t]) for h, r, t in p]) for p in rows]
    return found, len(entities), len(relations)


def ours(parts: list[Triples], sizes: tuple[int, int], config: TransEConfig) -> dict[str, Any]:
    """Train on the first part, rank the last one; all are known."""
    start = time.process_time()
    found = fit(parts[0], *sizes, config)
    seconds = time.process_time() - start
    ranked = evaluate(found.entities, found.relations, parts[-1], np.concatenate(parts))
    return {
        "cpu_seconds": round(seconds, 1),
        "triples_per_cpu_second": round(len(parts[0]) * config.epochs / seconds),
        "mrr": round(ranked.mrr, 4),
        "hits_at_10": round(ranked.hits[10], 4),
    }


def pykeens(folder: Path, config: TransEConfig) -> dict[str, Any]:
    """The same by PyKEEN: its TransE with the 2-norm, self-adversarial loss and Adagrad."""
    from pykeen.datasets.base import PathDataset  # type: ignore[import-not-found]
    from pykeen.evaluation import RankBasedEvaluator  # type: ignore[import-not-found]
    from pykeen.models import TransE  # type: ignore[import-not-found]
    from pykeen.training import SLCWATrainingLoop  # type: ignore[import-not-found]

    logging.disable(logging.WARNING)
    data = PathDataset(*(folder / f"{part}.txt" for part in ("train", "test", "valid")))
    parts = [data.training, data.validation, data.testing]
    model = TransE(
        triples_factory=parts[0],
        embedding_dim=config.dimension,
        scoring_fct_norm=2,
        loss="nssa",
        loss_kwargs={"margin": config.margin, "adversarial_temperature": config.temperature},
        random_seed=config.seed,
    )
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=parts[0],
        optimizer=torch.optim.Adagrad(model.parameters(), lr=config.learning_rate),
        negative_sampler_kwargs={"num_negs_per_pos": config.negatives},
    )
    how = {"num_epochs": config.epochs, "batch_size": config.batch_size, "use_tqdm": False}
    start = time.process_time()
    loop.train(triples_factory=parts[0], **how)
    seconds = time.process_time() - start
    known = [part.mapped_triples for part in parts]
    found = RankBasedEvaluator().evaluate(
        model, known[-1], additional_filter_triples=known[:-1], use_tqdm=False
    )
    return {
        "epochs": config.epochs,
        "cpu_seconds": round(seconds, 1),
        "triples_per_cpu_second": round(parts[0].num_triples * config.epochs / seconds),
        "mrr": round(found.get_metric("both.realistic.inverse_harmonic_mean_rank"), 4),
        "hits_at_10": round(found.get_metric("both.realistic.hits_at_10"), 4),
    }


def codex(folder: Path) -> dict[str, Any]:
    """CoDEx-S, test triples."""
    parts, *sizes = read(folder)
    return {"config": vars(CODEX), **ours(parts, (sizes[0], sizes[1]), CODEX)}


def equal(folder: Path) -> dict[str, Any]:
    """PyKEEN on CoDEx-S for at least the time that ours takes.

    It gets half the dimension and an eighth of the negatives, so that it sees the facts often.
    """
    own, peer = codex(folder), replace(CODEX, dimension=128, negatives=16, epochs=4)
    found = pykeens(folder, peer)
    while found["cpu_seconds"] < own["cpu_seconds"]:
        more = 1.25 * own["cpu_seconds"] / found["cpu_seconds"]
        peer = replace(peer, epochs=math.ceil(more * peer.epochs))
        found = pykeens(folder, peer)
    return {"ours": own, "pykeen": {"config": vars(peer), **found}}


def umls(_: Path) -> dict[str, Any]:
    """UMLS, which PyKEEN carries: equal epochs, three seeds."""
    import pykeen

    folder = Path(pykeen.__file__).parent / "datasets" / "umls"
    parts, *sizes = read(folder)
    configs = [replace(UMLS, seed=seed) for seed in range(3)]
    own = [ours(parts, (sizes[0], sizes[1]), config) for config in configs]
    return {"config": vars(UMLS), "ours": own, "pykeen": [pykeens(folder, c) for c in configs]}


def speed(folder: Path) -> dict[str, Any]:
    """Triples a CPU second of both, a few epochs of CoDEx-S."""
    parts, *sizes = read(folder)
    own = ours(parts, (sizes[0], sizes[1]), replace(SPEED, epochs=5))
    other = pykeens(folder, SPEED)
    rates = [found["triples_per_cpu_second"] for found in (own, other)]
    ratio = round(rates[0] / rates[1], 1)
    return {"config": vars(SPEED), "ours": rates[0], "pykeen": rates[1], "ratio": ratio}


def size(_: Path) -> dict[str, Any]:
    """One epoch of two million made-up facts over 16 million entities, float16, 64 negatives."""
    chance, stamps = np.random.default_rng(0), [0.0]
    facts = chance.integers(0, ENTITIES, (FACTS, 3), np.int32)
    facts[:, 1] %= 300
    config = TransEConfig(epochs=2, batch_size=4096, negatives=64, precision="float16")
    fit(facts, ENTITIES, 300, config, progress=lambda *_: stamps.append(time.process_time()))
    rows = Path("/proc/self/status").read_text("utf-8").splitlines()
    peak = next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))
    rate = round(FACTS / (stamps[2] - stamps[1]))
    return {"config": vars(config), "triples_per_cpu_second": rate, "peak_gb": round(peak / 1e6, 2)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "codex": codex,
    "equal": equal,
    "umls": umls,
    "speed": speed,
    "size": size,
}


def main() -> None:
    """Measure the parts and write them beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--codex", type=Path, default=Path("codex-s"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = options.out and options.out.exists()
    report = json.loads(options.out.read_text("utf-8")) if known else {}
    report["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    for part in options.parts:
        command = f"python benchmarks/transe.py {part}"
        report[part] = {"command": command, **PARTS[part](options.codex)}
    text = json.dumps(report, ensure_ascii=False, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
