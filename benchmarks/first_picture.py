"""How fast and how repeatable a finished picture is: `python benchmarks/first_picture.py`.

Draws one prompt, enlarged and as PNG, with three set-ups of the same modules, in turn:
    shipped           compiled, in the device's fast format, our PNG encoder
    eager_float32     as the modules come, Pillow's PNG encoder
    eager_bfloat16    the same in bfloat16 and channels-last
and reports medians and the ratios round by round. Then the same seeds in two processes, and in
every position of a batch. `--recognition DATA` also judges what the model draws (minutes).

Writes its sections into the JSON file named by --out; those of earlier runs that are not measured
again stay.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.denoising.compiled import compile_network
from rapid_diffusion.images.png import encode_png

PROMPT = "三维立体风格的老虎"
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--out", type=Path, default=Path("docs/results/first-picture.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--recognition", type=Path, metavar="DATA")
    parser.add_argument("--only-recognition", action="store_true")
    parser.add_argument("--seeds", type=int, default=4, help="pictures a judged prompt")
    parser.add_argument("--hashes", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hashes:
        print(json.dumps(hashes(RapidDiffusionPipeline.from_pretrained(options.model))))
        return
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    command = " ".join(["python", *sys.argv])
    if not options.only_recognition:
        report["speed_command"] = command
        report["machine"] = machine()
        report["speed"] = speed(options.model, options.rounds)
        report["same"] = same(options.model)
    if options.recognition:
        from rapid_diffusion.evaluation.report import Recognition

        pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
        report["recognition_command"] = command
        report["recognition"] = Recognition(options.recognition).measure(pipeline, options.seeds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    print(json.dumps(report, ensure_ascii=False, indent=1))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_units": bool(torch.cpu._is_avx512_bf16_supported()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
    }


def speed(model: str, rounds: int) -> dict[str, Any]:
    """Seconds for one finished picture, each set-up in turn, and the ratios."""
    setups = {
        "shipped": shipped(model),
        "eager_float32": eager(model, torch.float32, torch.contiguous_format),
        "eager_bfloat16": eager(model, torch.bfloat16, torch.channels_last),
    }
    for draw in setups.values():
        draw()  # warm: compiles, fills caches
        draw()
    seconds: dict[str, list[float]] = {name: [] for name in setups}
    for _ in range(rounds):
        for name, draw in setups.items():
            started = time.perf_counter()
            draw()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(times), 4) for name, times in seconds.items()}
    return {
        "prompt": PROMPT,
        "steps": STEPS,
        "rounds": rounds,
        "median_seconds": medians,
        "times_faster_than_eager_float32": ratio(seconds, "eager_float32"),
        "times_faster_than_eager_bfloat16": ratio(seconds, "eager_bfloat16"),
    }


def ratio(seconds: dict[str, list[float]], other: str) -> float:
    """Median of the pairwise ratios other / shipped."""
    pairs = zip(seconds[other], seconds["shipped"], strict=True)
    return round(statistics.median(slow / fast for slow, fast in pairs), 3)


def shipped(model: str) -> Callable[[], bytes]:
    """The pipeline as a service runs it."""
    pipeline = RapidDiffusionPipeline.from_pretrained(model)
    compile_network(pipeline.model.denoiser)
    if pipeline.model.upscaler is not None:
        compile_network(pipeline.model.upscaler.network)

    def draw() -> bytes:
        result = pipeline(PROMPT, seed=0, num_inference_steps=STEPS, output_type="numpy")
        return encode_png(result.images[0])

    return draw


def eager(
    model: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> Callable[[], bytes]:
    """The same modules, nothing compiled, Pillow's encoder at its default level."""
    pipeline = RapidDiffusionPipeline.from_pretrained(model, dtype=dtype)
    for network in (pipeline.model.denoiser, pipeline.model.upscaler):
        if network is not None:
            network.to(memory_format=memory_format)

    def draw() -> bytes:
        image = pipeline(PROMPT, seed=0, num_inference_steps=STEPS).images[0]
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    return draw


def hashes(pipeline: RapidDiffusionPipeline) -> list[list[str]]:
    """Digests of eight seeds' pixels, drawn in one batch eight times, moved on by one each time."""
    rows = []
    for shift in range(8):
        seeds = [(place - shift) % 8 for place in range(8)]
        result = pipeline([PROMPT] * 8, seed=seeds, num_inference_steps=4, output_type="numpy")
        digests = {
            seed: hashlib.sha256(image.tobytes()).hexdigest()
            for seed, image in zip(seeds, result.images, strict=True)
        }
        rows.append([digests[seed] for seed in range(8)])
    return rows


def same(model: str) -> dict[str, Any]:
    """Are the pixels of a seed the same in two processes and in all places of a batch of eight?"""
    command = [sys.executable, __file__, "--model", model, "--hashes"]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    ]
    return {
        "seeds": 8,
        "positions": 8,
        "equal_in_all_positions": all(row == runs[0][0] for row in runs[0]),
        "equal_in_two_processes": runs[0] == runs[1],
    }


if __name__ == "__main__":
    main()
