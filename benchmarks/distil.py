"""What a student gives: `python benchmarks/distil.py --data .work/emoji_zh --student FOLDER`.

Draws every judged prompt of the recipe (trained pairs and held-out pairs) with the teacher and with
the student, each with the defaults of its own card and the same seeds. The judge says how often
each is recognised (the difference is paired, its interval resamples concepts), and how far each is
from the real pictures of the same prompts (KID; `excess` is the student's over the teacher's, less
one, and its interval resamples prompts). Seconds are those of one finished picture alone, the two
models in turn.

Writes the JSON file named by --out.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from recall import Wanted, drawn, judged_prompts, recalls, write_json
from torch import Tensor
from torch.nn import functional

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.fid import Features, KernelDistance, resampled
from rapid_diffusion.evaluation.intervals import rounded
from rapid_diffusion.evaluation.report import Recognition
from rapid_diffusion.evaluation.speed import machine

ROUNDS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="emoji-zh")
    parser.add_argument("--student", required=True)
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--seeds", type=int, default=1, help="pictures a prompt")
    parser.add_argument("--prompts", type=int, default=10**9, help="at most so many a run")
    parser.add_argument("--rounds", type=int, default=5, help="timed pictures a model")
    parser.add_argument("--out", type=Path, default=Path("docs/results/distil.json"))
    options = parser.parse_args()
    models = {
        "model": RapidDiffusionPipeline.from_pretrained(options.student),
        "against": RapidDiffusionPipeline.from_pretrained(options.teacher),
    }
    recognition = Recognition(options.data)
    wanted = judged_prompts(recognition, options.seeds, options.prompts)
    pooled = {name: drawn(pipe, recognition, wanted) for name, pipe in models.items()}
    units = {name: functional.normalize(rows, dim=-1) for name, rows in pooled.items()}
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(models["model"]),
        "models": {name: facts(pipe) for name, pipe in models.items()},
        "meaning": "model: the student; against: its teacher; difference: paired",
        "recall": recalls(recognition, wanted, units),
        "kid": distances(recognition, wanted, pooled),
        "seconds_a_picture": seconds(models, wanted[0][1].text, options.rounds),
    }
    write_json(options.out, report)


def facts(pipe: RapidDiffusionPipeline) -> dict[str, Any]:
    """Which model, and how it draws without being told."""
    return {"name": pipe.name, "digest": pipe.digest, "parameters": pipe.default_parameters}


def distances(
    recognition: Recognition, wanted: Wanted, pooled: dict[str, Tensor]
) -> dict[str, Any]:
    """KID of each against the real pictures that the prompts are the captions of."""
    scale = float(recognition.pooled.double().square().mean().sqrt())
    real: Features = recognition.pooled[[prompt.row for _, prompt, _ in wanted]].double().numpy()
    kernels = {
        name: KernelDistance(features.double().numpy() / scale, real / scale)
        for name, features in pooled.items()
    }
    values = {name: kernel.value() for name, kernel in kernels.items()}
    takes = resampled(len(wanted), ROUNDS), resampled(len(wanted), ROUNDS, 1)
    ratios = [
        kernels["model"].value(left, right) / kernels["against"].value(left, right) - 1
        for left, right in zip(*takes, strict=True)
    ]
    return {
        "pictures": len(wanted),
        **{name: rounded(value) for name, value in values.items()},
        "excess": rounded(values["model"] / values["against"] - 1),
        "excess_interval": [rounded(float(q)) for q in np.quantile(ratios, (0.025, 0.975))],
    }


def seconds(models: dict[str, RapidDiffusionPipeline], prompt: str, rounds: int) -> dict[str, Any]:
    """Medians of one finished picture and of its steps alone, and how many times faster it is."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, pipe in models.items():
            started = time.perf_counter()
            result = pipe(prompt, seed=0, output_type="numpy")
            if number:  # the first warms up
                took = time.perf_counter() - started
                times[name].append((took, result.timings["denoise"]))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in times.items()
    }
    ratio = [slow / fast for slow, fast in zip(medians["against"], medians["model"], strict=True)]
    return {
        "rounds": rounds,
        **{
            name: {"picture": round(whole, 4), "denoise": round(steps, 4)}
            for name, (whole, steps) in medians.items()
        },
        "times_faster": {"picture": round(ratio[0], 2), "denoise": round(ratio[1], 2)},
    }


if __name__ == "__main__":
    main()
