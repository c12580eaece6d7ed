"""Does a killed training go on exactly? `python benchmarks/resume.py`: a few minutes, CPU.

Trains a tiny UNet twice: once in one go, once with `kill -9` at random moments (while it starts,
between steps, while it writes) and started again each time. Then compares the two logs line by
line and the two checkpoints (weights, averages, optimizer) bit by bit.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapid_diffusion.files import TEMPORARY_PREFIX
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.training.checkpoint import CHECKPOINT
from rapid_diffusion.training.progress import LOG, read_log
from rapid_diffusion.training.run import run

CONFIG = """
output = "{output}"
[model]
name = "tiny"
num_inference_steps = 2
[data]
folder = "{data}"
pictures = "small.npy"
[text]
width = 16
layers = 1
heads = 2
max_length = 12
entity_dimension = 8
[image_tower]
widths = [8, 8, 8, 8]
embedding = 8
[autoencoder]
channels = 8
[denoiser]
sample_size = 8
channels = 8
widths = [8, 16]
attends = [false, true]
head_width = 8
text_width = 16
norm_groups = 4
draft = 12
"""
LOOP = """
[loops.{name}]
steps = {steps}
batch = 4
learning_rate = 1e-3
cooldown = 10
log_every = 1
checkpoint_seconds = 0.1
sample_every = 25
"""
#: What of a line does not depend on the clock.
CURVE = ("step", "samples", "loss", "learning_rate")
PRELOAD = [
    "rapid_diffusion.training.run",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.bert.modeling_bert",
    "transformers.models.resnet.modeling_resnet",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("docs/results/resume.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "command": " ".join(["python", *sys.argv]),
            "torch": torch.__version__,
            **compare(Path(folder), options.steps, options.kills, options.seed),
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    sys.exit(0 if report["curve_equal"] and report["state_equal"] else 1)


def compare(folder: Path, steps: int, kills: int, seed: int) -> dict[str, Any]:
    """Train in `folder` in one go, and with that many kills; what is equal."""
    write_data(folder / "data")
    whole = write_config(folder, "whole", steps)
    for stage in ("text", "autoencoder", "draft"):
        life(whole, stage)
    shutil.copytree(folder / "whole", folder / "killed")
    train(whole)
    moments = random.Random(seed)
    killed = write_config(folder, "killed", steps)
    told = [kill_once(killed, moments, steps // (kills + 1)) for _ in range(kills)]
    train(killed)
    first, second = (path.with_suffix("") / "stages" / "diffusion" for path in (whole, killed))
    return {
        "steps": steps,
        "kills": told,
        "kills_while_writing": sum(kill["left_half_written"] for kill in told),
        "lines": len(read_log(second / LOG)),
        "curve_equal": curve(first) == curve(second) and len(curve(first)) == steps,
        "state_equal": state_equal(first, second),
        "last_loss": [curve(path)[-1][2] for path in (first, second)],
    }


def life(config: Path, stage: str) -> None:
    """What the command line does, without its bar."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        said, sys.stderr = sys.stderr, nowhere
        try:
            run(config, stage)
        finally:
            sys.stderr = said


def process(config: Path) -> Any:
    """A process that trains, begun from a server that has read the libraries already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context.Process(target=life, args=(config, "diffusion"), daemon=True)


def train(config: Path) -> None:
    """Train to the end, in a process of its own."""
    child = process(config)
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"the training ended with exit code {child.exitcode}")


def kill_once(config: Path, moments: random.Random, most: int) -> dict[str, Any]:
    """Train for at most about `most` steps more, then kill -9; says where that was."""
    folder = config.with_suffix("") / "stages" / "diffusion"
    before = last_step(folder)
    child = process(config)
    child.start()
    wanted = before + moments.randint(0, most)
    while child.is_alive() and last_step(folder) < wanted:
        time.sleep(0.02)
    time.sleep(moments.random() * 0.05)
    if not child.is_alive():
        raise RuntimeError("the training ended before it was killed; give it more --steps")
    child.kill()
    child.join()
    return {
        "exit_code": child.exitcode,
        "logged_steps": last_step(folder),
        "left_half_written": any(folder.glob(f"{TEMPORARY_PREFIX}*")),
    }


def last_step(folder: Path) -> int:
    """The step of the last whole line in the log; 0 without one."""
    lines = read_log(folder / LOG)
    return int(lines[-1]["step"]) if lines else 0


def curve(folder: Path) -> list[list[float]]:
    return [[line[key] for key in CURVE] for line in read_log(folder / LOG)]


def state_equal(one: Path, other: Path) -> bool:
    """Whether all tensors of two checkpoints have the same bits."""
    first, second = (torch.load(folder / CHECKPOINT, weights_only=True) for folder in (one, other))
    for content in (first, second):
        content.pop("seconds")
    return same(first, second)


def same(one: Any, other: Any) -> bool:
    """Equality of nested dictionaries and lists of tensors and plain values."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def write_data(folder: Path) -> None:
    """A dozen pictures of noise with a caption each, and the graph of the tests."""
    folder.mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    np.save(folder / "small.npy", pictures)
    subjects = ("老虎", "猫", "红苹果")
    rows = [{"captions": [f"一个{subjects[i % 3]}"], "entity": subjects[i % 3]} for i in range(12)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    build_micro_graph(folder / "graph")


def write_config(folder: Path, name: str, steps: int) -> Path:
    """The configuration `NAME.toml`, its output beside it in `NAME`."""
    text = CONFIG.format(output=folder / name, data=folder / "data")
    for stage, count in (("text", 2), ("draft", 2), ("diffusion", steps)):
        text += LOOP.format(name=stage, steps=count)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
