"""A batch in parts gives the gradient of the whole; so do activations that are computed anew."""

from dataclasses import replace

import pytest
import torch

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.loop import _backward, _parts, run_loop
from rapid_diffusion.training.parts import WHOLE, Part, checkpoint_activations
from rapid_diffusion.training.processes import Processes
from rapid_diffusion.training.stages import Stage

ALONE = Processes(0, 1, torch.device("cpu"))
LOOP = LoopConfig(steps=1, batch=6, learning_rate=1e-3)


@pytest.fixture
def stage(begun, monkeypatch):
    """`stage(name)` with random weights where a new network has zeros, and dropout on."""

    def build(name):
        loops = dict.fromkeys(begun.config.loops, LOOP)
        monkeypatch.setattr(begun, "config", replace(begun.config, loops=loops))
        built = begun._stage(name)
        torch.manual_seed(5)
        for parameter in built.module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        built.module.train()
        return built

    return build


def gradients(stage, parts, step=3):
    stage.module.zero_grad(set_to_none=True)
    loss = _backward(stage, LOOP, step, parts)
    named = stage.module.named_parameters()
    return {"loss": loss} | {name: p.grad.clone() for name, p in named if p.grad is not None}


def close(one, other):
    """Equal up to rounding, each tensor by its own largest number."""
    assert one.keys() == other.keys()
    return all(
        torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5 * float(one[name].abs().max()))
        for name in one
    )


@pytest.mark.parametrize("name", ["draft", "diffusion", "super_resolution"])
def test_accumulated_gradients_are_those_of_the_whole_batch(stage, name):
    built = stage(name)
    whole = gradients(built, [WHOLE])
    assert len(whole) > 4
    assert any(float(value.abs().max()) > 1e-3 for value in whole.values())
    assert close(whole, gradients(built, [Part(index, 3) for index in range(3)]))
    assert not close(whole, gradients(built, [Part(0, 3), Part(1, 3), Part(1, 3)]))


@pytest.mark.parametrize("name", ["text", "diffusion"])
def test_activations_computed_anew_give_the_same_gradients(stage, name):
    built = stage(name)
    kept = gradients(built, [WHOLE])
    assert checkpoint_activations(built.module)
    assert close(kept, gradients(built, [WHOLE]))
    if name == "diffusion":
        assert close(kept, gradients(built, [Part(0, 2), Part(1, 2)]))


def test_activations_are_computed_anew_indeed(stage):
    built, passes = stage("diffusion"), []
    block = built.module.network.down_blocks[0].resnets[0].conv1
    block.register_forward_hook(lambda *_: passes.append(1))
    gradients(built, [WHOLE])
    checkpoint_activations(built.module)
    gradients(built, [WHOLE])
    assert len(passes) == 1 + 2


def test_a_stage_that_cannot_compute_activations_anew_says_so(stage, tmp_path):
    loop = replace(LOOP, checkpoint_activations=True)
    with pytest.raises(InvalidRequestError, match=r"loops\.draft\.checkpoint_activations"):
        run_loop(stage("draft"), loop, tmp_path)


def test_a_dropout_layer_has_its_own_forward_again_after_a_part(stage):
    built = stage("draft")
    gradients(built, [Part(0, 2)])
    assert not any("forward" in vars(layer) for layer in built.module.modules())


def test_the_contrastive_stage_refuses_parts_of_a_batch_by_name(stage):
    with pytest.raises(InvalidRequestError, match=r"loops\.text\.accumulate: 2; allowed: 1"):
        _parts(stage("text"), replace(LOOP, accumulate=2), ALONE)


def test_parts_must_be_equal(stage):
    with pytest.raises(InvalidRequestError, match=r"loops\.draft\.batch: 6; .* multiples of 4"):
        _parts(stage("draft"), replace(LOOP, accumulate=2), Processes(1, 2, ALONE.device))


def test_a_loss_that_knows_no_parts_is_refused_them():
    simple = Stage("simple", torch.nn.Linear(1, 1), lambda step: torch.zeros(()))
    assert _parts(simple, LOOP, ALONE) == [WHOLE]
    with pytest.raises(InvalidRequestError, match=r"loops\.simple"):
        _parts(simple, replace(LOOP, accumulate=2), ALONE)


def test_each_process_has_its_own_parts():
    stage = Stage("s", torch.nn.Linear(1, 1), lambda step: torch.zeros(()), lambda step, part: 0)
    loop = replace(LOOP, batch=8, accumulate=2)
    parts = [_parts(stage, loop, Processes(index, 2, ALONE.device)) for index in range(2)]
    rows = [part.rows(8) for own in parts for part in own]
    assert [n for row in rows for n in range(8)[row]] == list(range(8))
