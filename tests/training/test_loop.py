"""The loop that all stages share, on a stage of one matrix."""

import json

import pytest
import torch
from torch import nn

from rapid_diffusion.errors import CheckpointError, NumericalError
from rapid_diffusion.training import loop
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.stages import Stage

CONFIG = LoopConfig(steps=6, batch=2, learning_rate=0.05, warmup=2)


def toy_stage(loss=None):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)

    def own_loss(step):
        rows = torch.randn(4, 3, generator=step_generator(0, step))
        return (layer(rows) - rows[:, :2]).square().mean()

    return Stage("toy", layer, loss or own_loss)


def train(folder, steps=6, stage=None, **settings):
    values = {**vars(CONFIG), "steps": steps, **settings}
    return loop.run_loop(stage or toy_stage(), LoopConfig(**values), folder)


def checkpoint(folder):
    return torch.load(folder / loop.CHECKPOINT, weights_only=True)


def log(folder):
    """What of each line does not depend on the clock."""
    lines = [json.loads(line) for line in (folder / loop.LOG).read_text().splitlines()]
    return [[line[key] for key in ("step", "samples", "loss", "learning_rate")] for line in lines]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(autouse=True)
def log_every_step(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def test_a_training_in_two_parts_is_the_training_in_one(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", steps=3)
    assert equal(train(tmp_path / "parts"), whole)
    for part in ("module", "averages"):
        assert equal(checkpoint(tmp_path / "parts")[part], checkpoint(tmp_path / "whole")[part])
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    assert [line[0] for line in log(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("killed_at", range(6))
def test_a_training_that_is_killed_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    whole, stage = train(tmp_path / "whole"), toy_stage()

    def loss_until_killed(step):
        if step == killed_at:
            raise KeyboardInterrupt
        return stage.loss(step)

    dying = Stage("toy", stage.module, loss_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stage=dying, checkpoint_seconds=0)
    assert equal(train(tmp_path / "parts"), whole)
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def test_a_finished_training_is_left_as_it_is(tmp_path):
    done = train(tmp_path)
    before = (tmp_path / loop.LOG).read_bytes()
    assert equal(train(tmp_path), done)
    assert (tmp_path / loop.LOG).read_bytes() == before


def test_a_fresh_training_forgets_the_old_one(tmp_path):
    train(tmp_path)
    loop.run_loop(toy_stage(), LoopConfig(2, 2, 0.05), tmp_path, resume=False)
    assert checkpoint(tmp_path)["step"] == 2
    assert [line[0] for line in log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_the_stage_before_it_spoils_weights(tmp_path, bad):
    stage = toy_stage()
    weight = stage.module.weight
    spoiled = Stage("toy", stage.module, lambda step: weight.sum() * float(bad))
    before = weight.detach().clone()
    with pytest.raises(NumericalError, match=r"stage toy.* at step 0"):
        train(tmp_path, stage=spoiled)
    assert torch.equal(weight, before)
    assert not (tmp_path / loop.CHECKPOINT).exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x80\x04."])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / loop.CHECKPOINT).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt.*--fresh"):
        train(tmp_path)


def test_a_checkpoint_of_another_configuration_is_named(tmp_path):
    train(tmp_path, steps=1)
    torch.manual_seed(0)
    wider = nn.Linear(3, 5)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(tmp_path, stage=Stage("toy", wider, lambda step: wider.weight.sum()))


def test_weights_of_a_stage_that_was_not_trained_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="train this stage first"):
        loop.averaged_weights(tmp_path)


def test_the_rate_rises_over_the_warmup_and_falls_over_the_cooldown():
    config = LoopConfig(steps=100, batch=1, learning_rate=1.0, warmup=10, cooldown=20)
    rates = [loop.learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:80]) == {1.0}
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert 0 < rates[99] < 0.1
