"""An adapter folder is read strictly: whatever is damaged, foreign or unknown is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rapid_diffusion import CheckpointError, RapidDiffusionPipeline
from rapid_diffusion.checkpoints.adapter import AdapterCard, base_of, write_adapter
from rapid_diffusion.errors import OutputError


def spoil_key(folder):
    path = folder / "unet" / "adapter_model.safetensors"
    weights = load_file(path)
    weights["base_model.model.conv_in.lora_C.weight"] = torch.zeros(1)
    save_file(weights, path)


def drop_layer(folder):
    path = folder / "unet" / "adapter_model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if ".conv_in." not in k}
    save_file(weights, path)


def drop_half(folder):
    path = folder / "draft" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if "output.lora_A" not in k}, path)


def wrong_shape(folder):
    path = folder / "draft" / "adapter_model.safetensors"
    weights = load_file(path)
    weights["base_model.model.output.lora_A.weight"] = torch.zeros(2, 3)
    save_file(weights, path)


def not_finite(folder):
    path = folder / "draft" / "adapter_model.safetensors"
    weights = load_file(path)
    weights["base_model.model.output.lora_A.weight"].fill_(torch.nan)
    save_file(weights, path)


def truncate(folder):
    path = folder / "unet" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def set_config(**changes):
    def spoil(folder):
        path = folder / "unet" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def set_card(**changes):
    def spoil(folder):
        path = folder / "adapter.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_key, "lora_C"),
        (drop_layer, "conv_in is not in the weights"),
        (drop_half, "lora_B only"),
        (wrong_shape, "is no change of a weight"),
        (not_finite, "NaN"),
        (truncate, "not a whole safetensors file"),
        (set_config(use_dora=True), "use_dora"),
        (set_config(peft_type="IA3"), "IA3"),
        (set_config(r=0), "r = 0"),
        (set_config(rank_pattern={"x": 4}), "rank_pattern"),
        (set_config(target_modules=["conv_in"]), "only in the weights"),
        (set_card(format=2), "later version"),
        (set_card(base=None), "not the card"),
        (set_card(surprise=1), "not the card"),
        (lambda folder: (folder / "vae").mkdir(), "holds changes of"),
        (lambda folder: (folder / "adapter.json").unlink(), "no such file"),
        (lambda folder: shutil.rmtree(folder), "no such file"),
    ],
)
def test_a_damaged_adapter_is_refused_and_nothing_is_loaded(
    spoil, told, micro_model_folder, micro_adapter_folder, tmp_path
):
    folder = shutil.copytree(micro_adapter_folder, tmp_path / "adapter")
    spoil(folder)
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    with pytest.raises(CheckpointError, match=told):
        pipe.load_adapter(folder, "x")
    assert not pipe.adapters


def test_an_adapter_is_written_whole_or_not_at_all(micro_model_folder, tmp_path):
    card = AdapterCard("x", base_of(micro_model_folder, "micro"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").touch()
    with pytest.raises(OutputError, match="mine"):
        write_adapter(tmp_path / "mine", card, {})
    with pytest.raises(ValueError, match="JSON"):
        write_adapter(tmp_path / "bad", card, {"unet": ({"r": float("nan")}, {})})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    for _ in range(2):  # an adapter may take the place of an adapter
        write_adapter(tmp_path / "good", card, {"unet": ({}, {"w": torch.zeros(1)})})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "mine"]
