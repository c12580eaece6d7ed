"""How often a judge recognises pictures of one model, beside those of another: R@1 and R@5."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.evidence import by_digest
from rapid_diffusion.evaluation.intervals import compared, rounded
from rapid_diffusion.evaluation.report import Prompt, Recognition
from rapid_diffusion.evaluation.retrieval import Query
from rapid_diffusion.files import write_bytes
from rapid_diffusion.images.convert import pixels_to_unit

RUNS = ("trained_pairs", "held_out_pairs")
#: (run, prompt, seed) of each picture.
Wanted = list[tuple[str, Prompt, int]]


def judged_prompts(recognition: Recognition, seeds: int, prompts: int) -> Wanted:
    """At most `prompts` of each run, always the same ones, each with `seeds` seeds."""
    plan = recognition.plan(seeds)
    return [
        (name, prompt, seed)
        for name in RUNS
        if name in plan
        for prompt in by_digest(plan[name].prompts)[:prompts]
        for seed in range(seeds)
    ]


@torch.inference_mode()
def drawn(
    pipeline: RapidDiffusionPipeline, recognition: Recognition, wanted: Wanted, **parameters: Any
) -> Tensor:
    """What the judge sees in each finished picture, (N, 1280) as `Judge.pooled` gives it."""
    rows = [{"prompt": prompt.text, "seed": seed} for _, prompt, seed in wanted]
    results = pipeline.render(rows, output_type="numpy", **parameters)
    seen = [
        recognition.judge.pooled(pixels_to_unit(result.images))
        for result in tqdm(results, desc=pipeline.name, total=len(rows), unit="picture")
    ]
    return torch.cat(seen)


def recalls(
    recognition: Recognition, wanted: Wanted, features: dict[str, Tensor]
) -> dict[str, Any]:
    """Recalls of `model` and `against`, (N, 1280) of unit length, by run and together.

    The differences are paired, their intervals resample concepts; `kept` is the share that `model`
    keeps of the other's R@1.
    """
    ranks = {name: ranks_of(recognition, wanted, rows) for name, rows in features.items()}
    runs = [run for run, _, _ in wanted]
    tables: dict[str, Any] = {}
    for name in (*dict.fromkeys(runs), "together"):
        chosen = np.array([name in (run, "together") for run in runs])
        groups = [
            prompt.concept for kept, (_, prompt, _) in zip(chosen, wanted, strict=True) if kept
        ]
        tables[name] = [
            compared(f"R@{k}", ranks["model"][chosen] < k, ranks["against"][chosen] < k, groups)
            for k in (1, 5)
        ]
        first = tables[name][0]
        first["kept"] = rounded(first["model"] / max(first["against"], 1e-9))
    return tables


def write_report(
    path: Path,
    model: str,
    recognition: Recognition,
    wanted: Wanted,
    pooled: dict[str, Tensor],
    **facts: Any,
) -> None:
    """Write and print the recalls of what the judge saw, `drawn` by `model` and `against`."""
    features = {name: functional.normalize(rows, dim=-1) for name, rows in pooled.items()}
    report = {
        "command": f"python {' '.join(sys.argv)}",
        "model": model,
        "judge": "EfficientNet-Lite0, ImageNet; gallery: all real pictures; 1 seed a sentence",
        **facts,
        "recalls": recalls(recognition, wanted, features),
    }
    write_json(path, report)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write and print a report, in a folder that need not be there."""
    text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    print(text)


def ranks_of(recognition: Recognition, wanted: Wanted, features: Tensor) -> np.ndarray:
    """The place of each picture's own concept, from 0."""
    return np.array(recognition.ranks_of(queries_of(wanted, features)))


def queries_of(wanted: Wanted, features: Tensor) -> list[Query]:
    """What the judge is asked of each picture, whose features are (N, 1280) of unit length."""
    return [
        Query(row, prompt.concept, prompt.style)
        for row, (_, prompt, _) in zip(features, wanted, strict=True)
    ]
