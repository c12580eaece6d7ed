"""The loop that all stages share, on a stage of one matrix."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from rapid_diffusion.errors import CheckpointError, NumericalError
from rapid_diffusion.training import loop
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.parts import WHOLE
from rapid_diffusion.training.stages import Stage

CONFIG = LoopConfig(steps=6, batch=4, learning_rate=0.05, warmup=2, log_every=1)


def toy_stage(**settings):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2), nn.Dropout(0.2))

    def loss(step, part=WHOLE):
        rows = torch.randn(4, 3, generator=step_generator(0, step))[part.rows(4)]
        return (layers(rows) - rows[:, :2]).square().mean()

    return Stage("toy", layers, loss, loss, settings=settings)


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


def test_a_training_in_two_parts_is_the_training_in_one(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", steps=3)
    assert equal(train(tmp_path / "parts"), whole)
    for part in ("module", "averages"):
        assert equal(checkpoint(tmp_path / "parts")[part], checkpoint(tmp_path / "whole")[part])
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    assert [line[0] for line in log(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("killed_at", range(6))
def test_a_training_that_is_killed_goes_on_as_if_nothing_had_been(tmp_path, killed_at):
    whole, stage = train(tmp_path / "whole", log_every=3), toy_stage()

    def loss_until_killed(step):
        if step == killed_at:
            raise KeyboardInterrupt
        return stage.loss(step)

    dying = Stage("toy", stage.module, loss_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stage=dying, checkpoint_seconds=0, log_every=3)
    assert equal(train(tmp_path / "parts", log_every=3), whole)
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def test_a_finished_training_is_left_as_it_is(tmp_path):
    done = train(tmp_path)
    before = (tmp_path / loop.LOG).read_bytes()
    assert equal(train(tmp_path), done)
    assert (tmp_path / loop.LOG).read_bytes() == before


def test_a_fresh_training_forgets_the_old_one(tmp_path):
    train(tmp_path)
    loop.run_loop(toy_stage(), replace(CONFIG, steps=2, batch=8), tmp_path, resume=False)
    assert checkpoint(tmp_path)["step"] == 2
    assert [line[0] for line in log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_the_stage_before_it_spoils_weights(tmp_path, bad):
    stage = toy_stage()
    weight = stage.module[0].weight
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


@pytest.mark.parametrize(
    ("before", "now", "name"),
    [
        ({"batch": 4}, {"batch": 8}, r"loops\.toy\.batch was 4 and is 8"),
        ({"seed": 0}, {"seed": 1}, r"loops\.toy\.seed was 0 and is 1"),
    ],
)
def test_a_setting_that_decides_the_examples_cannot_change_on_the_way(tmp_path, before, now, name):
    train(tmp_path, steps=1, **before)
    with pytest.raises(CheckpointError, match=name):
        train(tmp_path, steps=2, **now)


def test_a_setting_of_the_stage_cannot_change_on_the_way(tmp_path):
    train(tmp_path, steps=1, stage=toy_stage(**{"denoiser.widths": [8, 16], "old": 1}))
    with pytest.raises(CheckpointError, match=r"denoiser\.widths was \[8, 16\] and is \[8, 32\]"):
        train(tmp_path, stage=toy_stage(**{"denoiser.widths": [8, 32], "new": 2}))


def around(value):
    """The toy stage, whose last layer was taught elsewhere."""
    stage = toy_stage()
    stage.module[2].requires_grad_(False).weight.fill_(value)
    return stage


def test_what_another_stage_taught_is_taken_as_it_is_now(tmp_path, caplog):
    before = train(tmp_path, steps=3, stage=around(0.1))
    assert "learned around" not in caplog.text
    stage = around(0.2)
    now = train(tmp_path, steps=3, stage=stage)
    for weights in (now, stage.module.state_dict()):
        assert (weights["2.weight"] == 0.2).all()
    assert torch.equal(now["0.weight"], before["0.weight"])
    assert "learned around other weights of 1 parameters (2.weight ...)" in caplog.text


def test_a_training_prolonged_between_two_lines_of_the_log_writes_the_same_lines(tmp_path):
    train(tmp_path / "whole", log_every=3)
    train(tmp_path / "parts", steps=2, log_every=3)
    train(tmp_path / "parts", log_every=3)
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    assert [line[0] for line in log(tmp_path / "whole")] == [3, 6]


def test_half_written_files_of_a_killed_training_are_removed(tmp_path):
    (tmp_path / ".rapid-0123.tmp").write_bytes(b"half")
    train(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [loop.CHECKPOINT, loop.LOG]


def test_a_line_tells_rate_memory_and_the_time_that_is_left(tmp_path):
    train(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / loop.LOG).read_text().splitlines()]
    for key in ("seconds", "samples_per_second", "memory_mib", "peak_memory_mib"):
        assert all(line[key] > 0 for line in lines)
    assert lines[-1]["seconds_left"] == 0


def test_the_averages_follow_weights_and_buffers(tmp_path):
    layer = nn.BatchNorm1d(2)
    averages = loop.Averages(layer)
    layer.running_mean += 1
    layer.num_batches_tracked += 7
    averages.update(0.75)
    assert averages.values["running_mean"].tolist() == [0.25, 0.25]
    assert averages.values["num_batches_tracked"] == 7


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
