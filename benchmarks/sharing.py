"""What a shared engine costs a lone request and gives to four: `python benchmarks/sharing.py`.

Processor seconds of four guided pictures (not enlarged), asked for one after the other and
by four threads at once, for several numbers of rows; those of the default pipeline are 1. Each
picture must have the same bits in both ways.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from first_picture import machine

from rapid_diffusion import RapidDiffusionPipeline

REQUESTS = range(4)


def main() -> None:
    """Print the ratios as one JSON object, and write them to --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each request")
    parser.add_argument("--out", type=Path, default=Path("docs/results/sharing.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = RapidDiffusionPipeline.from_pretrained(options.model, device=options.device)
    draw = drawer(pipe, options.steps)
    draw(0)
    clock = time.process_time if pipe.device.type == "cpu" else time.perf_counter
    unit = seconds_of(lambda: [draw(seed) for seed in REQUESTS], clock)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "meaning": "time (on a CPU: processor time) of four pictures; default, one by one: 1",
        "busy": "other programs ran beside: read the ratios as directions",
        "steps": options.steps,
    }
    for rows in options.rows:
        pipe.share_engine(rows)
        report[f"rows {rows}"] = together(draw, unit, clock)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def drawer(pipe: RapidDiffusionPipeline, steps: int) -> Callable[[int], Any]:
    """A call of the pipeline for one seed."""

    def draw(seed: int) -> Any:
        prompt = "三维立体风格的老虎"
        wishes = {"num_inference_steps": steps, "upscale": 1, "output_type": "numpy"}
        return pipe(prompt, seed=seed, **wishes).images

    return draw


def together(
    draw: Callable[[int], Any], unit: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Ratios to `unit`; raises `AssertionError` where company changes a bit."""
    alone = [draw(seed) for seed in REQUESTS]
    one_by_one = seconds_of(lambda: [draw(seed) for seed in REQUESTS], clock)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        drawn = list(pool.map(draw, REQUESTS))  # the pool's threads are warm after that
        at_once = seconds_of(lambda: list(pool.map(draw, REQUESTS)), clock)
    assert all(map(np.array_equal, drawn, alone)), "the pixels depend on the company"
    ratios = {"one after the other": one_by_one / unit, "four at once": at_once / unit}
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def seconds_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds by the clock, the better of two: other work on the machine counts little."""
    spent = []
    for _ in range(2):
        began = clock()
        work()
        spent.append(clock() - began)
    return min(spent)


if __name__ == "__main__":
    main()
