"""The section "Speed": how long a finished picture takes on this machine."""

import os
import platform
import statistics
import time

import torch

from rapid_diffusion.drawing import BATCH
from rapid_diffusion.evaluation.evidence import Record, Section, Table
from rapid_diffusion.evaluation.intervals import rounded
from rapid_diffusion.pipeline import RapidDiffusionPipeline

ROUNDS = 3


def speed(pipelines: dict[str, RapidDiffusionPipeline], prompt: str) -> Section:
    """Seconds of one picture (the median), and pictures a second in batches of eight."""
    first = next(iter(pipelines.values()))
    says = (
        f"Finished pictures with each model's own parameters, warm, on {machine(first)}."
        " Other work on the machine slows it down; a compiled engine is faster than this."
    )
    columns = [_timed(pipeline, prompt) for pipeline in pipelines.values()]
    rows: list[Record] = [
        {"what": what} | dict(zip(pipelines, values, strict=True))
        for what, values in zip(
            ("median seconds of one picture", f"pictures a second, {BATCH} at a time"),
            zip(*columns, strict=True),
            strict=True,
        )
    ]
    note = f"Medians of {ROUNDS} runs each, the prompt {prompt!r}; too few for an interval."
    return Section("Speed", says, [Table("speed", rows)], [note])


def machine(pipeline: RapidDiffusionPipeline) -> str:
    """What the times were taken on."""
    if pipeline.device.type == "cuda":
        return f"{torch.cuda.get_device_name(pipeline.device)}, torch {torch.__version__}"
    return (
        f"{_processor()} with {os.cpu_count()} cores ({torch.get_num_threads()} threads,"
        f" {torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}"
    )


def _processor() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _timed(pipeline: RapidDiffusionPipeline, prompt: str) -> tuple[float, float]:
    one, many = [], []
    for _ in range(ROUNDS):
        one.append(_seconds(pipeline, [prompt]))
        many.append(_seconds(pipeline, [prompt] * BATCH))
    return rounded(statistics.median(one)), rounded(BATCH / statistics.median(many))


def _seconds(pipeline: RapidDiffusionPipeline, prompts: list[str]) -> float:
    """Pixels come back to the CPU, so the work of a device is over when the call is."""
    started = time.perf_counter()
    pipeline(prompts, seed=0, output_type="numpy")
    return time.perf_counter() - started
