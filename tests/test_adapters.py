"""What an adapter changes, that nothing of it stays, and which ones are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rapid_diffusion import CheckpointError, InvalidRequestError, RapidDiffusionPipeline
from rapid_diffusion.denoising.compiled import compile_network, has_folded_weights
from rapid_diffusion.testing import build_micro_adapter, build_micro_model

PROMPT = "卡通风格的老虎"


@pytest.fixture
def pipe(micro_model_folder, micro_adapter_folder):
    pipeline = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipeline.load_adapter(micro_adapter_folder, "random")
    return pipeline


@pytest.fixture
def draw(pipe):
    def pixels(**parameters):
        return pipe(PROMPT, seed=3, output_type="numpy", **parameters).images

    return pixels


def weights_of(pipeline):
    modules = pipeline.model.denoiser, pipeline.model.text_encoder
    return {
        f"{number}/{name}": value.clone()
        for number, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }


def test_an_adapter_changes_the_picture_and_none_gives_the_base_to_the_bit(pipe, draw):
    weights, before = weights_of(pipe), draw()
    with_adapter = draw(adapter="random")
    assert not np.array_equal(before, with_adapter)
    assert np.array_equal(before, draw())
    assert np.array_equal(with_adapter, draw(adapter="random", adapter_scale=1.0))
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(pipe).items())


def test_scale_zero_is_the_base_and_scales_grow_apart(draw):
    assert np.array_equal(draw(), draw(adapter="random", adapter_scale=0))
    base = draw().astype(float)
    little, much = (
        np.abs(draw(adapter="random", adapter_scale=scale) - base).mean() for scale in (0.05, 1)
    )
    assert 0 < little < much


def test_a_run_that_is_broken_off_leaves_the_base(pipe, draw):
    weights = weights_of(pipe)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(adapter="random", callback_on_step_end=stop)
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(pipe).items())


def test_the_change_is_the_one_that_peft_documents(pipe, micro_adapter_folder):
    name = "down_blocks.1.resnets.0.conv1"
    stored = load_file(micro_adapter_folder / "unet" / "adapter_model.safetensors")
    down, up = (stored[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    weight = pipe.model.denoiser.network.get_parameter(f"{name}.weight")
    inputs = torch.randn(1, weight.shape[1], 4, 4)
    conv = torch.nn.functional.conv2d
    wanted = conv(inputs, weight, padding=1) + 2 * conv(conv(inputs, down, padding=1), up)
    with pipe._adapters.applied("random"):
        got = conv(inputs, weight, padding=1)
    assert torch.allclose(got, wanted, atol=1e-4)


def test_each_network_is_changed_the_text_tower_too(pipe):
    request = pipe.request(PROMPT)
    tokens = pipe.tokenize(request.prompts)
    plain = pipe.encode_text(tokens).hidden
    with pipe._adapters.applied("random"):
        assert not torch.allclose(pipe.encode_text(tokens).hidden, plain, atol=1e-3)
        changed = {name for name, value in weights_of(pipe).items() if name.endswith("weight")}
    assert any("draft" in name for name in changed)
    assert torch.equal(pipe.encode_text(tokens).hidden, plain)


def test_switching_adapters_compiles_nothing_again(pipe, micro_model_folder, tmp_path):
    pipe.load_adapter(build_micro_adapter(tmp_path / "two", micro_model_folder, seed=2), "two")
    calls = [{}, {"adapter": "random"}, {"adapter": "two", "adapter_scale": 0.5}, {}]
    quick = {"seed": 3, "num_inference_steps": 1, "output_type": "numpy"}
    eager = [pipe(PROMPT, **quick, **call).images for call in calls]
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    pipe.model.denoiser.compile(dynamic=False, backend=backend)
    made, compiled = [], []
    for call in calls:
        compiled.append(pipe(PROMPT, **quick, **call).images)
        made.append(len(graphs))
    assert made[0] > 0
    assert made == made[:1] * 4
    assert all(np.array_equal(one, two) for one, two in zip(eager, compiled, strict=True))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's own, where it loads its compiler
def test_folded_weights_refuse_an_adapter(pipe, draw):
    compile_network(pipe.model.text_encoder, freeze=False)  # nothing is compiled before a call
    assert not has_folded_weights(pipe.model.text_encoder)
    compile_network(pipe.model.denoiser)
    assert has_folded_weights(pipe.model.denoiser)
    with pytest.raises(InvalidRequestError, match="freeze=False"):
        draw(adapter="random")


def test_rows_name_their_adapters_and_come_in_order(pipe, micro_model_folder, tmp_path):
    pipe.load_adapter(build_micro_adapter(tmp_path / "two", micro_model_folder, seed=2), "two")
    names = [None, "random", "two", "random", None, "two"]
    rows = [{"prompt": PROMPT, "seed": 5, "adapter": name} for name in names]
    drawn = [result.images for result in pipe.render(rows, output_type="numpy")]
    alone = {
        name: pipe(PROMPT, seed=5, adapter=name, output_type="numpy").images for name in set(names)
    }
    for name, images in zip(names, drawn, strict=True):
        # A batch of one and of two may differ in a bit; two adapters differ in thousands.
        assert np.abs(images.astype(int) - alone[name]).max() <= 1
    assert [len(result.images) for result in pipe.render(rows, num_images_per_prompt=3)] == [3] * 6


def test_rows_of_one_adapter_share_their_steps(pipe, monkeypatch):
    batches, inner = [], pipe.denoise
    monkeypatch.setattr(pipe, "denoise", lambda *some: batches.append(some[2]) or inner(*some))
    rows = [{"prompt": PROMPT, "adapter": name} for name in ("random", None) * 4]
    assert len(list(pipe.render(rows, seed=0))) == 8
    assert [(len(batch.prompts), batch.adapter) for batch in batches] == [(4, "random"), (4, None)]
    assert batches[0].seeds == (0, 2, 4, 6)


def test_a_result_says_which_adapter_drew_it(pipe):
    told = pipe(PROMPT, adapter="random", adapter_scale=0.5).parameters
    assert (told["adapter"], told["adapter_scale"]) == ("random", 0.5)
    assert "adapter" not in pipe(PROMPT).parameters
    assert pipe.adapters["random"].base.digest == pipe.digest


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"adapter": "nobody"}, "adapter"),
        ({"adapter": 3}, "adapter"),
        ({"adapter": "random", "adapter_scale": 2.1}, "adapter_scale"),
        ({"adapter": "random", "adapter_scale": "1"}, "adapter_scale"),
        ({"adapter": "random", "adapter_scale": float("nan")}, "adapter_scale"),
        ({"adapter_scale": 1.0}, "adapter_scale"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_field(draw, wish, field):
    with pytest.raises(InvalidRequestError) as caught:
        draw(**wish)
    assert caught.value.field == field


def test_an_adapter_of_another_model_is_refused_and_both_are_named(
    micro_adapter_folder, micro_model_folder, tmp_path
):
    other = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    other.model.text_encoder.injection.gate.data.fill_(0.5)
    other.save_pretrained(tmp_path / "other")
    pipe = RapidDiffusionPipeline.from_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"differs in text_encoder") as caught:
        pipe.load_adapter(micro_adapter_folder, "random")
    assert pipe.digest[:19] in str(caught.value)
    assert not pipe.adapters


def test_another_card_or_graph_is_still_the_same_base(micro_adapter_folder, tmp_path):
    folder = build_micro_model(tmp_path / "again")
    index = json.loads((folder / "model_index.json").read_text())
    index["card"]["name"] = "renamed"
    (folder / "model_index.json").write_text(json.dumps(index))
    pipe = RapidDiffusionPipeline.from_pretrained(folder)
    pipe.load_adapter(micro_adapter_folder, "random")
    assert pipe.adapters["random"].base.digest != pipe.digest


def test_moving_to_another_format_keeps_the_base_exact(pipe, draw):
    pipe.to("cpu", torch.bfloat16)
    weights = weights_of(pipe)
    draw(adapter="random")
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(pipe).items())


def test_a_saved_model_is_the_base(pipe, draw, tmp_path):
    draw(adapter="random")
    pipe.save_pretrained(tmp_path / "saved")
    again = RapidDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, weights_of(again)[k]) for k, value in weights_of(pipe).items())


def test_a_model_that_was_never_on_disk_takes_none(pipe, micro_adapter_folder):
    with pytest.raises(CheckpointError, match="never on disk"):
        RapidDiffusionPipeline(pipe.model).load_adapter(micro_adapter_folder, "x")
    with pytest.raises(InvalidRequestError, match="name"):
        pipe.load_adapter(micro_adapter_folder, " ")
