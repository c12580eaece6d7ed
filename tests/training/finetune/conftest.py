"""Two small domains, and a fine-tuning of the micro model from one to the other."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rapid_diffusion.training.finetune import Finetuning
from rapid_diffusion.training.finetune_config import read_finetune_config

CONFIG = """
start = "{start}"
method = "{method}"
output = "{output}"
[result]
name = "mine"
license = "CC0"
storage = "float32"
[data]
folder = "{new}"
pictures = "small.npy"
[lora]
rank = 2
alpha = 4
[loops.draft]
steps = {steps}
batch = 4
learning_rate = 2e-2
warmup = 1
[loops.diffusion]
steps = {steps}
batch = 4
learning_rate = 2e-2
warmup = 1
"""
OLD = '[old]\nfolder = "{old}"\npictures = "small.npy"\nshare = 0.5\n'


def write_data(folder, style, count=10):
    """Pictures of 16 px, the last two held out."""
    folder.mkdir()
    generator = np.random.default_rng(len(style))
    np.save(folder / "small.npy", generator.integers(0, 256, (count, 16, 16, 3), np.uint8))
    rows = [
        {
            "captions": [f"{style}的{name}", f"一个{name}，{style}"],
            "entity": name,
            "split": "held_out" if number >= count - 2 else "train",
        }
        for number, name in zip(range(count), ["老虎", "猫", "红苹果"] * count, strict=False)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    return {"new": write_data(root / "new", "墨风格"), "old": write_data(root / "old", "卡通风格")}


def config_text(folders, start, output, method="lora", steps=3, old=True):
    text = CONFIG.format(start=start, method=method, steps=steps, output=output, **folders)
    return text + (OLD.format(**folders) if old else "")


@pytest.fixture
def write_finetune(micro_model_folder, folders, tmp_path):
    """`write_finetune(method, steps, output)` -> path of a configuration file."""

    def write(method="lora", steps=3, output="run", old=True):
        path = tmp_path / f"{output}.toml"
        path.write_text(
            config_text(folders, micro_model_folder, tmp_path / output, method, steps, old)
        )
        return path

    return write


@dataclass
class Finished:
    """A LoRA after three steps: its configuration, its modules, its report, its folder."""

    path: Path
    tuning: Finetuning
    report: dict
    output: Path


@pytest.fixture(scope="module")
def finished(micro_model_folder, folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    path = root / "lora.toml"
    path.write_text(config_text(folders, micro_model_folder, root / "run"))
    tuning = Finetuning(read_finetune_config(path))
    return Finished(path, tuning, tuning.run(resume=True), root / "run")
