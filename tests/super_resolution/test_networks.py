import pytest
import torch

from rapid_diffusion.super_resolution.networks import (
    UpscalerConfig,
    build_network,
    less_enlarging,
)

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


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_network_made_less_enlarging_gives_the_means_of_its_pixels(scale):
    torch.manual_seed(0)
    four, less = (
        build_network(UpscalerConfig("SRVGGNetCompact", each, **TINY)).requires_grad_(False)
        for each in (4, scale)
    )
    less.load_state_dict(less_enlarging(four, scale))
    image = torch.rand(2, 3, 5, 6)
    shrunk = torch.nn.functional.avg_pool2d(four(image), 4 // scale)
    assert torch.allclose(less(image), shrunk, atol=1e-5)


def test_a_scale_that_does_not_divide_is_refused():
    four = build_network(UpscalerConfig("SRVGGNetCompact", 4, **TINY))
    with pytest.raises(ValueError, match="scale is 3; it must divide 4"):
        less_enlarging(four, 3)
