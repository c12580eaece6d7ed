"""What best of several gives: `python benchmarks/best_of.py --data .work/emoji_zh`.

Draws every judged prompt of the recipe (trained pairs and held-out pairs) once, and the best of
`--candidates`, the model's own contrastive pair choosing. Candidate 0 is the picture that a call
without candidates draws, so the two differ only where another one was chosen. The judge, which took
no part in choosing, then says how often each is recognised; the difference is paired, and its
interval resamples concepts.

Writes the JSON file named by --out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.candidates import Candidates
from rapid_diffusion.evaluation.evidence import by_digest
from rapid_diffusion.evaluation.intervals import compared
from rapid_diffusion.evaluation.report import Prompt, Recognition
from rapid_diffusion.evaluation.retrieval import Query
from rapid_diffusion.evaluation.speed import machine
from rapid_diffusion.files import write_bytes
from rapid_diffusion.images.convert import pixels_to_unit

RUNS = ("trained_pairs", "held_out_pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1, help="pictures a prompt")
    parser.add_argument("--prompts", type=int, default=10**9, help="at most so many a run")
    parser.add_argument("--out", type=Path, default=Path("docs/results/best-of.json"))
    options = parser.parse_args()
    if options.candidates < 2:
        parser.error(f"--candidates {options.candidates}; allowed: 2 to 16")
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    recognition = Recognition(options.data)
    plan = recognition.plan(options.seeds)
    wanted = [
        (name, prompt, seed)
        for name in RUNS
        if name in plan
        for prompt in by_digest(plan[name].prompts)[: options.prompts]
        for seed in range(options.seeds)
    ]
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(pipeline),
        "model": {"name": pipeline.name, "digest": pipeline.digest},
        "parameters": pipeline.default_parameters,
        "candidates": options.candidates,
        "seeds": options.seeds,
        "concepts": len(recognition.among),
        **measure(pipeline, recognition, wanted, options.candidates),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    write_bytes(options.out, text.encode())
    print(text)


def measure(
    pipeline: RapidDiffusionPipeline,
    recognition: Recognition,
    wanted: list[tuple[str, Prompt, int]],
    count: int,
) -> dict[str, Any]:
    """R@1 and R@5 of the best (`model`) over the first (`against`), by run and together."""
    rows = [{"prompt": prompt.text, "seed": seed} for _, prompt, seed in wanted]
    best, choices = judged(pipeline, recognition, rows, f"best of {count}", count)
    again = [place for place, choice in enumerate(choices) if choice.chosen > 0]
    redrawn, _ = judged(pipeline, recognition, [rows[place] for place in again], "first", 1)
    first = list(best)
    for place, features in zip(again, redrawn, strict=True):
        first[place] = features
    found = {
        "model": ranks(recognition, wanted, best),
        "against": ranks(recognition, wanted, first),
    }
    names = [name for name, _, _ in wanted]
    tables: dict[str, Any] = {}
    for name in (*dict.fromkeys(names), "together"):
        chosen = np.array([name in (run, "together") for run in names])
        groups = [
            prompt.concept for kept, (_, prompt, _) in zip(chosen, wanted, strict=True) if kept
        ]
        tables[name] = [
            compared(f"R@{k}", found["model"][chosen] < k, found["against"][chosen] < k, groups)
            for k in (1, 5)
        ]
    return {
        "meaning": f"model: best of {count}; against: the first of them; difference: paired",
        "recall": tables,
        "mean_score_of_best": round(float(np.mean([max(c.scores) for c in choices])), 4),
        "mean_score_of_first": round(float(np.mean([c.scores[0] for c in choices])), 4),
        "share_chosen": [
            round(float(np.mean([c.chosen == place for c in choices])), 4) for place in range(count)
        ],
    }


def judged(
    pipeline: RapidDiffusionPipeline,
    recognition: Recognition,
    rows: list[dict[str, Any]],
    name: str,
    count: int,
) -> tuple[list[Tensor], list[Candidates]]:
    """The judge's features of each finished picture, and what it was chosen from."""
    features, choices = [], []
    results = pipeline.render(rows, num_candidates=count, output_type="numpy")
    for result in tqdm(results, desc=name, total=len(rows), unit="picture"):
        features.append(recognition.judge.features(pixels_to_unit(result.images))[0])
        choices += result.candidates
    return features, choices


def ranks(
    recognition: Recognition, wanted: list[tuple[str, Prompt, int]], features: list[Tensor]
) -> np.ndarray:
    """The place of each picture's own concept, from 0."""
    queries = [
        Query(feature, prompt.concept, prompt.style)
        for feature, (_, prompt, _) in zip(features, wanted, strict=True)
    ]
    return np.array(recognition.ranks_of(queries))


if __name__ == "__main__":
    main()
