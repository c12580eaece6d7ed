"""A data set of twelve small pictures, and the configuration of a training that takes moments."""

import json
from pathlib import Path

import numpy as np
import pytest

from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.run import Training

CONFIG = """
output = "{output}"
[model]
name = "tiny"
num_inference_steps = 2
upscale = 2
[data]
folder = "{folder}"
pictures = "small.npy"
large_pictures = "large.npy"
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
[upscaler]
architecture = "SRVGGNetCompact"
scale = 2
num_feat = 8
num_conv = 1
"""
LOOP = """
[loops.{name}]
steps = {steps}
batch = 5
learning_rate = 1e-3
warmup = 2
"""
SUBJECTS = ("老虎", "猫", "红苹果")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """Twelve pictures, two captions each; the last is held out. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, side in (("small", 32), ("large", 64)):
        np.save(folder / f"{name}.npy", generator.integers(0, 256, (12, side, side, 3), np.uint8))
    rows = [
        {
            "captions": [f"一个{SUBJECTS[i % 3]}", f"卡通风格的{SUBJECTS[i % 3]}"],
            "entity": SUBJECTS[i % 3],
            "split": "held_out" if i == 11 else "train",
        }
        for i in range(12)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    build_micro_graph(folder / "graph")
    return folder


@pytest.fixture
def write_config(data_folder, tmp_path):
    """`write_config(steps, output)` -> path of a configuration file."""

    def write(steps=4, output="run", folder=data_folder):
        return write_training(tmp_path / output, folder, steps)

    return write


def write_training(output, data, steps) -> Path:
    """The configuration `OUTPUT.toml` of a training on the data set in `data`."""
    text = CONFIG.format(output=output, folder=data)
    for name in ("text", "draft", "diffusion", "super_resolution"):
        text += LOOP.format(name=name, steps=steps)
    path = output.with_suffix(".toml")
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def begun(data_folder, tmp_path_factory):
    """A training with a text tower, an autoencoder and a draft. Read only: copy its output."""
    path = write_training(tmp_path_factory.mktemp("begun") / "run", data_folder, 1)
    training = Training(read_training_config(path))
    for stage in ("text", "autoencoder", "draft"):
        training.train(stage, resume=True)
    return training
