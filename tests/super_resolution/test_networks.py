import pytest
import torch

from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network

TINY = {"num_feat": 8, "num_grow_ch": 4, "num_block": 1, "num_conv": 2}


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("architecture", ["RRDBNet", "SRVGGNetCompact"])
def test_sides_grow_by_the_scale(architecture, scale):
    config = UpscalerConfig(architecture, scale, **TINY)
    enlarged = build_network(config)(torch.rand(2, 3, 8, 12))
    assert enlarged.shape == (2, 3, 8 * scale, 12 * scale)


def test_rrdb_has_the_published_parameter_names_and_count():
    network = build_network(UpscalerConfig(num_block=6))
    names = set(network.state_dict())
    assert {"conv_first.weight", "body.5.rdb3.conv5.bias", "conv_up2.weight"} <= names
    # Published size of RealESRGAN_x4plus_anime_6B.
    assert sum(p.numel() for p in network.parameters()) == 4_467_779


def test_srvgg_has_the_published_parameter_names_and_count():
    network = build_network(UpscalerConfig("SRVGGNetCompact"))
    names = set(network.state_dict())
    assert {"body.0.weight", "body.1.weight", "body.34.bias"} <= names
    assert "body.1.bias" not in names
    assert "body.35.weight" not in names
    # Published size of realesr-animevideov3.
    assert sum(p.numel() for p in network.parameters()) == 621_424


def test_srvgg_with_silent_body_is_nearest_enlargement():
    network = build_network(UpscalerConfig("SRVGGNetCompact", 2, act_type="relu", **TINY))
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(1, 3, 3, 5)
    wanted = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(network(image), wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 3),
        ("scale", 0),
        ("num_feat", 0),
        ("num_block", True),
        ("num_conv", 2.0),
        ("architecture", "SwinIR"),
        ("act_type", "gelu"),
    ],
)
def test_impossible_sizes_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        UpscalerConfig(**{field: value})
