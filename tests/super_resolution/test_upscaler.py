import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from rapid_diffusion.checkpoints.folder import write_json
from rapid_diffusion.errors import (
    CheckpointError,
    InvalidRequestError,
    NumericalError,
    OutputError,
)
from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network
from rapid_diffusion.super_resolution.upscaler import Upscaler, _even_parts, _starts

TINY = {"num_feat": 8, "num_grow_ch": 4, "num_block": 1, "num_conv": 2}


def make_upscaler(architecture="RRDBNet", scale=4, **options):
    torch.manual_seed(0)
    config = UpscalerConfig(architecture, scale, **TINY)
    network = build_network(config).eval()
    if architecture == "RRDBNet":  # fresh weights draw nearly black, where clamping hides errors
        network.conv_last.bias.data.fill_(0.5)
    return Upscaler(network, config, **options)


def gradient(height, width):
    down = torch.linspace(0, 1, height)[:, None].expand(height, width)
    across = torch.linspace(0, 1, width).expand(height, width)
    return torch.stack([down, across, (down + across) / 2])[None]


@pytest.mark.parametrize("architecture", ["RRDBNet", "SRVGGNetCompact"])
@pytest.mark.parametrize("picture", ["gradient", "noise"])
def test_tiles_give_what_the_whole_gives(architecture, picture):
    image = gradient(47, 75) if picture == "gradient" else torch.rand(1, 3, 47, 75)
    upscaler = make_upscaler(architecture, overlap=16, tile=256)
    whole = upscaler(image)
    upscaler.tile = 36
    assert whole.std() > 0.005
    torch.testing.assert_close(upscaler(image), whole, atol=1 / 510, rtol=0)


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_keep_the_fold_of_the_network(scale):
    upscaler = make_upscaler(scale=scale, overlap=32, tile=128)
    image = torch.rand(1, 3, 90, 101)
    whole = upscaler(image)
    upscaler.tile, upscaler.overlap = 72, 32
    torch.testing.assert_close(upscaler(image), whole, atol=1 / 510, rtol=0)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 4), (7, 13)])
def test_every_size_comes_out_scaled(scale, size):
    enlarged = make_upscaler(scale=scale)(torch.rand(2, 3, *size))
    assert enlarged.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1


def test_padding_changes_nothing_but_the_padded_border():
    upscaler = make_upscaler(scale=2)
    image = torch.rand(1, 3, 7, 7)
    padded = functional.pad(image, (0, 1, 0, 1), mode="reflect")
    assert torch.equal(upscaler(image), upscaler(padded)[..., :14, :14])


def test_a_row_does_not_see_its_neighbours():
    upscaler = make_upscaler(tile=16, overlap=4)
    images = torch.rand(5, 3, 20, 9)
    together = upscaler(images)
    for index in range(5):
        alone = upscaler(images[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-6, rtol=0)


def test_equal_rows_give_equal_bits_in_every_part():
    upscaler = make_upscaler(tile=16, overlap=4)
    enlarged = upscaler(torch.rand(1, 3, 8, 8).expand(7, -1, -1, -1))
    assert all(torch.equal(enlarged[0], row) for row in enlarged)


@pytest.mark.parametrize("count", [1, 4, 5, 9, 10])
def test_parts_have_one_size_within_the_limit(count):
    parts = list(_even_parts(torch.rand(count, 3, 4, 4), 4 * 16))
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) <= 4
    assert 0 <= sum(map(len, parts)) - count < len(parts)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_tiles_cover_the_side_and_overlap(step):
    for length in range(32, 300, step):
        starts = _starts(length, 32, 8, step)
        assert starts[0] == 0
        assert starts[-1] == length - 32
        gaps = [b - a for a, b in pairwise(starts)]
        assert all(0 < gap <= 24 and gap % step == 0 for gap in gaps)


@pytest.mark.parametrize("architecture", ["RRDBNet", "SRVGGNetCompact"])
def test_round_trip_keeps_every_bit(architecture, tmp_path):
    upscaler = make_upscaler(architecture)
    upscaler.save(tmp_path / "super_resolution")
    image = torch.rand(1, 3, 6, 5)
    assert torch.equal(Upscaler.from_folder(tmp_path / "super_resolution")(image), upscaler(image))
    names = sorted(file.name for file in (tmp_path / "super_resolution").iterdir())
    assert names == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(("storage", "tolerance"), [("float16", 1e-3), ("int8", 1e-2)])
def test_narrow_storage_draws_nearly_the_same(storage, tolerance, tmp_path):
    config = UpscalerConfig(num_feat=32, num_block=1)
    upscaler = Upscaler(build_network(config), config)
    upscaler.save(tmp_path, storage)
    image = torch.rand(1, 3, 6, 5)
    loaded = Upscaler.from_folder(tmp_path)
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(loaded(image), upscaler(image), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.rand(3, 8, 8), "shape"),
        (torch.rand(1, 4, 8, 8), "shape"),
        (torch.rand(0, 3, 8, 8), "shape"),
        (torch.ones(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 8, 8), 255.0), "255"),
        (torch.full((1, 3, 8, 8), -1.0), "-1"),
        (torch.full((1, 3, 8, 8), float("nan")), "nan"),
    ],
)
def test_images_out_of_contract_are_refused(image, told):
    with pytest.raises(InvalidRequestError, match=told) as caught:
        make_upscaler()(image)
    assert caught.value.field == "image"


def test_a_nan_of_the_network_is_an_error():
    upscaler = make_upscaler()
    upscaler.network.conv_last.bias.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="float32"):
        upscaler(torch.rand(1, 3, 4, 4))


def test_half_precision_goes_in_and_out():
    upscaler = make_upscaler().to(torch.bfloat16)
    assert upscaler(torch.rand(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert upscaler(torch.rand(1, 3, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize("options", [{"tile": 6}, {"tile": 64, "overlap": 32}, {"overlap": -1}])
def test_impossible_tiles_are_refused(options):
    with pytest.raises(ValueError, match="tile"):
        make_upscaler(scale=1, **options)


def test_a_foreign_or_damaged_folder_is_named(tmp_path):
    make_upscaler().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for foreign in ({**config, "num_block": 2}, {**config, "_class_name": "X"}, {"scale": 3}):
        write_json(tmp_path / "config.json", foreign)
        with pytest.raises(CheckpointError, match=str(tmp_path)):
            Upscaler.from_folder(tmp_path)


def test_saving_where_no_folder_can_be_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="file"):
        make_upscaler().save(tmp_path / "file" / "super_resolution")


@pytest.mark.parametrize("architecture", ["RRDBNet", "SRVGGNetCompact"])
def test_opening_one_imports_no_compiler(architecture, tmp_path):
    """`torch._dynamo` takes seconds, and what is opened with artifacts is to do without."""
    make_upscaler(architecture).save(tmp_path)
    code = f"""
import sys
from rapid_diffusion.super_resolution.upscaler import Upscaler
Upscaler.from_folder({str(tmp_path)!r})
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
