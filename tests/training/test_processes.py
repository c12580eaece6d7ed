"""Two processes on the CPU (gloo) learn what one learns from the same batch."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rapid_diffusion import RapidDiffusionPipeline, cli
from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError
from rapid_diffusion.training import launch
from rapid_diffusion.training.processes import (
    average_gradients,
    gather_rows,
    join_processes,
    share_batch_norms,
)
from rapid_diffusion.training.run import run

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("gradients.py")


@pytest.fixture(scope="module")
def gradients(begun, tmp_path_factory):
    """The folder of `NAME-INDEX-of-COUNT.pt` that one process and two have written."""
    out = tmp_path_factory.mktemp("gradients")
    config = begun.output.with_suffix(".toml")
    shared = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"MEETING_PLACE": str(out / "meeting"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(config), str(out)]
    both = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    runpy.run_path(str(SCRIPT))["save_gradients"](config, out)
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    return out


@pytest.mark.parametrize("name", ["text", "diffusion"])
def test_two_processes_have_the_gradient_of_one(gradients, name):
    one, first, second = (
        torch.load(gradients / f"{name}-{which}.pt") for which in ("0-of-1", "0-of-2", "1-of-2")
    )
    assert len(one) > 20
    assert one.keys() == first.keys() == second.keys()
    for key, value in one.items():
        assert torch.equal(first[key], second[key])
        largest = float(value.abs().max())
        assert torch.allclose(first[key], value, rtol=1e-4, atol=max(1e-5 * largest, 1e-7)), key


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


@pytest.mark.slow
def test_a_training_by_two_processes_ends_in_the_model_of_one(write_config, tmp_path):
    paths = [write_config(2, output) for output in ("one", "two")]
    for path in paths:
        text = path.read_text().replace("batch = 5", "batch = 6\nlog_every = 1")
        path.write_text(text)
    run(paths[0])
    assert cli.run(["train", str(paths[1]), "--processes", "2"]) == 0
    for stage in ("text", "draft", "diffusion", "super_resolution"):
        one, two = (log(tmp_path / output / "stages" / stage) for output in ("one", "two"))
        assert [step for step, _ in two] == [1, 2]
        assert two == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in one]
    pipe = RapidDiffusionPipeline.from_pretrained(tmp_path / "two" / "model")
    assert pipe("卡通风格的大虫", seed=1).images[0].size == (64, 64)


def test_alone_there_is_nothing_to_share():
    layer, rows = nn.Linear(2, 2), torch.ones(3, 2)
    layer(rows).sum().backward()
    before, loss = layer.weight.grad.clone(), torch.tensor(2.0)
    assert gather_rows(rows) is rows
    assert average_gradients(layer.parameters(), loss) is loss
    assert torch.equal(layer.weight.grad, before)
    assert (join_processes().count, join_processes().is_main) == (1, True)


def test_a_shared_batch_norm_is_the_usual_one_in_one_process():
    torch.manual_seed(0)
    usual, shared = nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))
    share_batch_norms(shared)
    images = 2 + 3 * torch.randn(4, 3, 5, 5)
    assert torch.allclose(usual(images), shared(images), atol=1e-5)
    for name, value in usual.state_dict().items():
        assert torch.allclose(value, shared.state_dict()[f"0.{name}"], atol=1e-6)
    assert torch.allclose(usual.eval()(images), shared.eval()(images), atol=1e-5)


def test_a_launch_without_accelerate_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"rapid-diffusion\[train\]"):
        launch.launch(2, tmp_path)
    with pytest.raises(InvalidRequestError, match="processes"):
        launch.launch(0, tmp_path)


def test_what_is_wrong_is_said_before_any_process_starts(monkeypatch, write_config, capsys):
    monkeypatch.setattr(launch, "subprocess", None)
    assert cli.run(["train", str(write_config()), "--processes", "2"]) == 2
    assert "loops.text.batch: 5; allowed: multiples of 2" in capsys.readouterr().err
