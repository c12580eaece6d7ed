"""The UNet behind its one signature, and its folder."""

import json

import pytest
import torch

from rapid_diffusion.checkpoints.folder import read_json
from rapid_diffusion.config import DenoiserConfig
from rapid_diffusion.denoising.denoiser import build_denoiser, load_denoiser
from rapid_diffusion.errors import CheckpointError

TINY = DenoiserConfig(4, 3, (8,), (True,), head_width=8, text_width=6, norm_groups=4)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    denoiser = build_denoiser(TINY).eval()
    torch.nn.init.normal_(denoiser.network.conv_out.weight)
    return denoiser


def call(denoiser, mask=(True, True, False), hidden=None):
    rows = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    hidden = torch.linspace(0, 1, 18).reshape(1, 3, 6) if hidden is None else hidden
    with torch.no_grad():
        return denoiser(rows, torch.tensor([500.0]), hidden, torch.tensor([mask]))


def test_an_untrained_unet_gives_zero():
    assert not call(build_denoiser(TINY)).any()


def test_a_masked_word_is_not_looked_at(denoiser):
    hidden = torch.linspace(0, 1, 18).reshape(1, 3, 6)
    changed = hidden.clone()
    changed[:, 2] += 5
    assert torch.equal(call(denoiser, hidden=hidden), call(denoiser, hidden=changed))
    changed[:, 1] += 5
    assert not torch.allclose(call(denoiser, hidden=hidden), call(denoiser, hidden=changed))


def test_a_saved_unet_comes_back_to_the_bit(denoiser, tmp_path):
    denoiser.save(tmp_path)
    assert torch.equal(call(load_denoiser(tmp_path).eval()), call(denoiser))
    assert read_json(tmp_path / "config.json")["_class_name"] == "UNet2DConditionModel"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_class_name": "SD3Transformer2DModel"}, "SD3Transformer2DModel"),
        ({"block_out_channels": [16]}, "does not fit"),
        ({"block_out_channels": [7]}, "gives no UNet"),
        ({"down_block_types": ["NoSuchBlock"]}, "gives no UNet"),
    ],
)
def test_a_config_of_another_model_is_refused_by_name(denoiser, tmp_path, change, told):
    denoiser.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(read_json(config) | change))
    with pytest.raises(CheckpointError, match=told) as caught:
        load_denoiser(tmp_path)
    assert str(tmp_path) in str(caught.value)
