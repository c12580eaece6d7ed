"""How fast the UNet of a recipe learns: `python benchmarks/training.py` (a few minutes).

One step of the diffusion stage, the text tower's part included, by three set-ups of the same
modules on the same examples, in turn within one run:
    ours          our loop as the recipe sets it (compiled where it says so, channels last)
    ours_eager    our loop, nothing compiled
    plain         the loop one would write: eager, contiguous, AdamW, averages tensor by tensor
All have the same batch, autocast and attention back end. Reports medians, the ratio of the medians
plain / ours, and where a step's time goes (torch.profiler). The data are synthetic, of the
recipe's shapes; times do not depend on what is in a picture.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from first_picture import machine
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from rapid_diffusion.denoising.denoiser import Denoiser, build_denoiser
from rapid_diffusion.denoising.samplers import TIMESTEPS
from rapid_diffusion.precision import fast_dtype
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, build_text_encoder
from rapid_diffusion.training.checkpoint import save_weights
from rapid_diffusion.training.config import LoopConfig, TrainingConfig, read_training_config
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.loop import _Run, _state
from rapid_diffusion.training.parts import WHOLE
from rapid_diffusion.training.run import Training
from rapid_diffusion.training.stages import stage_folder

Step = Callable[[int], object]
ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/emoji_zh/config.toml"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/training.json"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--profiled", type=int, default=5, help="steps under the profiler; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(read_training_config(options.recipe), Path(folder))
        steps = setups(Training(config), config.loops["diffusion"])
        seconds = measure(steps, options.warmup, options.rounds)
        tables = {
            name: where_time_goes(steps[name], options.profiled)
            for name in ("ours", "plain")
            if options.profiled
        }
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "recipe": str(options.recipe),
        "batch": config.loops["diffusion"].batch,
        "autocast": str(fast_dtype(torch.device("cpu"))),
        "rounds": options.rounds,
        **summary(seconds, config.loops["diffusion"].batch),
        "profile": tables,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def prepare(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The recipe on synthetic data, its earlier stages there with random weights."""
    side = config.denoiser.sample_size * config.autoencoder.patch
    pictures = np.random.default_rng(0).integers(0, 256, (ROWS, side, side, 3), np.uint8)
    np.save(folder / "pictures.npy", pictures)
    row = json.dumps({"captions": ["扁平卡通风格的老虎", "一个红苹果的画"]}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_text(f"{row}\n" * ROWS, encoding="utf-8")
    build_micro_graph(folder / "graph")
    data = replace(config.data, folder=str(folder), pictures="pictures.npy", graph="graph")
    config = replace(config, data=data, output=str(folder / "run"))
    training = Training(config)
    training.train("autoencoder", resume=False)
    pair = ContrastivePair(build_text_encoder(training.text_config), config.image_tower)
    save_weights(stage_folder(training.output, "text"), pair.state_dict())
    draft = build_denoiser(config.denoiser).draft
    if draft is not None:
        save_weights(stage_folder(training.output, "draft"), draft.state_dict())
    return config


def setups(training: Training, loop: LoopConfig) -> dict[str, Step]:
    """Each set-up by name, as a function that learns one step."""
    plain = training.denoiser(trained=False).to(memory_format=torch.contiguous_format)
    return {
        "ours": ours(training, loop),
        "ours_eager": ours(training, replace(loop, compile=False)),
        "plain": plain_loop(training, plain, loop),
    }


def ours(training: Training, loop: LoopConfig) -> Step:
    """The step of `run_loop`, with all that it does at each step."""
    stage = training._diffusion_stage(loop)
    stage.module.train()
    run = _Run(stage, loop, training.output, _state(stage, loop), None)

    def learn(_: int) -> None:  # the run counts its steps itself
        run._step([WHOLE])

    return learn


def plain_loop(training: Training, denoiser: Denoiser, loop: LoopConfig) -> Step:
    """What a page of straight PyTorch does for the same step."""
    encoder: KnowledgeTextEncoder = training.pair().text.requires_grad_(False).eval()
    if denoiser.draft is not None:
        denoiser.draft.requires_grad_(False)
    denoiser.train()
    examples = training.examples
    latents = training.autoencoder().encode(examples.picture_batch(list(range(ROWS))))
    learning = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, loop.learning_rate, betas=(0.9, 0.99))
    averages = copy.deepcopy(denoiser.state_dict())
    device, dtype = training.device, fast_dtype(training.device)

    def learn(step: int) -> float:
        generator = step_generator(loop.seed, step)
        indices = examples.indices(step, loop.batch, loop.seed)
        tokens = examples.sentences(indices, generator)
        clean = latents[indices].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randn(len(indices), generator=generator).sigmoid().to(device)
        at = times[:, None, None, None]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                states = encoder.encode(tokens)
            noisy = (1 - at) * clean + at * noise
            velocity = denoiser(noisy, TIMESTEPS * times, states.hidden, states.mask)
            loss = functional.mse_loss(velocity.float(), noise - clean)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, loop.gradient_clip)
        optimizer.step()
        with torch.no_grad():
            for name, value in denoiser.state_dict().items():
                averages[name].lerp_(value, 1 - loop.ema)
        return loss.item()

    return learn


def measure(steps: dict[str, Step], warmup: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, the set-ups in turn so that a busy moment meets all of them."""
    for learn in steps.values():
        for step in range(warmup):
            learn(step)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in range(rounds):
        for name, learn in steps.items():
            _wait()
            started = time.perf_counter()
            learn(warmup + step)
            _wait()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(seconds: dict[str, list[float]], batch: int) -> dict[str, Any]:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    pairs = zip(seconds["plain"], seconds["ours"], strict=True)
    return {
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "samples_per_second": {name: round(batch / value, 2) for name, value in medians.items()},
        "times_faster_than_plain": round(medians["plain"] / medians["ours"], 3),
        "eager_times_faster_than_plain": round(medians["plain"] / medians["ours_eager"], 3),
        "median_of_ratios": round(statistics.median(slow / fast for slow, fast in pairs), 3),
    }


def where_time_goes(learn: Step, steps: int, lines: int = 14) -> list[dict[str, Any]]:
    """The operations that take most, each without those it calls."""
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=activities) as profiler:
        for step in range(steps):
            learn(step)
        _wait()
    cuda = torch.cuda.is_available()
    times = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event)
        for event in profiler.key_averages()
    ]
    whole = sum(time for time, _ in times)
    return [
        {
            "operation": event.key[:80],
            "calls_a_step": round(event.count / steps, 1),
            "milliseconds_a_step": round(time / steps / 1000, 3),
            "share": round(time / whole, 4),
        }
        for time, event in sorted(times, key=lambda pair: -pair[0])[:lines]
    ]


if __name__ == "__main__":
    main()
