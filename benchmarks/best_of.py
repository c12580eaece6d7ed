"""What best of several gives: `python benchmarks/best_of.py --data .work/emoji_zh`.

Draws every judged prompt of the recipe (trained pairs and held-out pairs) once, and the best of
`--candidates`, the model's own contrastive pair choosing. Candidate 0 is the picture that a call
without candidates draws, so the two differ only where another one was chosen. The judge, which took
no part in choosing, then says how often each is recognised; the difference is paired, and its
interval resamples concepts.

Writes the JSON file named by --out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recall import Wanted, judged_prompts, recalls, write_json
from torch import Tensor
from tqdm import tqdm

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.candidates import Candidates
from rapid_diffusion.evaluation.report import Recognition
from rapid_diffusion.evaluation.speed import machine
from rapid_diffusion.images.convert import pixels_to_unit


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
    wanted = judged_prompts(recognition, options.seeds, options.prompts)
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
    write_json(options.out, report)


def measure(
    pipeline: RapidDiffusionPipeline,
    recognition: Recognition,
    wanted: Wanted,
    count: int,
) -> dict[str, Any]:
    """R@1 and R@5 of the best (`model`) over the first (`against`), by run and together."""
    rows = [{"prompt": prompt.text, "seed": seed} for _, prompt, seed in wanted]
    best, choices = judged(pipeline, recognition, rows, f"best of {count}", count)
    again = [place for place, choice in enumerate(choices) if choice.chosen > 0]
    redrawn, _ = judged(pipeline, recognition, [rows[place] for place in again], "first", 1)
    first = best.clone()
    first[again] = redrawn
    return {
        "meaning": f"model: best of {count}; against: the first of them; difference: paired",
        "recall": recalls(recognition, wanted, {"model": best, "against": first}),
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
) -> tuple[Tensor, list[Candidates]]:
    """The judge's features (N, 1280) of finished pictures, and what each was chosen from."""
    features, choices = [torch.empty(0, recognition.pooled.shape[1])], []
    results = pipeline.render(rows, num_candidates=count, output_type="numpy")
    for result in tqdm(results, desc=name, total=len(rows), unit="picture"):
        features.append(recognition.judge.features(pixels_to_unit(result.images)))
        choices += result.candidates
    return torch.cat(features), choices


if __name__ == "__main__":
    main()
