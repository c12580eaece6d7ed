import math
import pickle
import struct

import numpy as np
import pytest
import torch

from rapid_diffusion.checkpoints.realesrgan import import_realesrgan
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network

RRDB = UpscalerConfig("RRDBNet", 4, num_feat=6, num_block=2, num_grow_ch=4)
SRVGG = UpscalerConfig("SRVGGNetCompact", 4, num_feat=6, num_conv=3)
FLOAT16 = 0x01306B47


def network_of(config):
    torch.manual_seed(0)
    network = build_network(config)
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    return network.eval()


def packed(weight, float16):
    if not float16:
        return struct.pack("<I", 0) + weight.numpy().tobytes()
    content = weight.numpy().astype("<f2").tobytes()
    return struct.pack("<I", FLOAT16) + content + bytes(-len(content) % 4)


class NcnnWriter:
    """Writes the two files of ncnn for a network of ours, as its converter would."""

    def __init__(self, network, float16=True):
        self.weights = network.state_dict()
        self.float16 = float16
        self.lines = []
        self.content = b""

    def layer(self, kind, options=""):
        self.lines.append(f"{kind:24} layer{len(self.lines)} 1 1 a b {options}")

    def convolution(self, name, leaky=False):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        fused = " 9=2 -23310=1,2.000000e-01" if leaky else ""
        self.layer("Convolution", f"0={len(bias)} 1=3 4=1 5=1 6={weight.numel()}{fused}")
        self.content += packed(weight, self.float16) + bias.numpy().tobytes()

    def prelu(self, name):
        slopes = self.weights[f"{name}.weight"]
        self.layer("PReLU", f"0={len(slopes)}")
        self.content += slopes.numpy().tobytes()

    def save(self, folder):
        head = f"7767517\n{len(self.lines)} {len(self.lines)}\n"
        (folder / "model.param").write_text(head + "\n".join(self.lines) + "\n")
        (folder / "model.bin").write_bytes(self.content)
        return folder / "model.param"


def write_rrdb(network, folder, float16=True):
    writer = NcnnWriter(network, float16)
    writer.convolution("conv_first")
    for block in range(RRDB.num_block):
        for dense in (1, 2, 3):
            for number in range(1, 6):
                writer.convolution(f"body.{block}.rdb{dense}.conv{number}", leaky=number < 5)
                if number < 5:
                    writer.layer("Concat")
    writer.convolution("conv_body")
    for name in ("conv_up1", "conv_up2"):
        writer.layer("Interp", "0=1 1=2.0 2=2.0")
        writer.convolution(name, leaky=True)
    writer.convolution("conv_hr", leaky=True)
    writer.convolution("conv_last")
    return writer.save(folder)


def write_srvgg(network, folder, shrinks=False):
    writer = NcnnWriter(network)
    writer.layer("Input")
    writer.layer("Split")
    for number in range(2 * SRVGG.num_conv + 3):
        (writer.prelu if number % 2 else writer.convolution)(f"body.{number}")
    for kind in ("PixelShuffle", "Interp", "BinaryOp"):
        writer.layer(kind)
    if shrinks:
        writer.layer("Interp", "0=3 1=5.0e-01 2=5.0e-01")
    return writer.save(folder)


def assert_same_network(path, network, config):
    upscaler = import_realesrgan(path)
    image = torch.rand(1, 3, 5, 4)
    assert upscaler.config == config
    assert torch.equal(upscaler.network(image), network(image))


@pytest.mark.parametrize("float16", [True, False])
def test_rrdb_from_ncnn_draws_the_same(tmp_path, float16):
    network = network_of(RRDB)
    assert_same_network(write_rrdb(network, tmp_path, float16), network, RRDB)


def test_srvgg_from_ncnn_draws_the_same(tmp_path):
    network = network_of(SRVGG)
    assert_same_network(write_srvgg(network, tmp_path), network, SRVGG)


@pytest.mark.parametrize("key", ["params_ema", "params", None])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("architecture", ["RRDBNet", "SRVGGNetCompact"])
def test_pth_of_every_scale_draws_the_same(tmp_path, architecture, scale, key):
    sizes = {"num_block": 2, "num_grow_ch": 4} if architecture == "RRDBNet" else {"num_conv": 3}
    config = UpscalerConfig(architecture, scale, num_feat=6, **sizes)
    network = network_of(config)
    weights = network.state_dict()
    torch.save({key: weights} if key else weights, tmp_path / "model.pth")
    path = tmp_path / "model.pth"
    upscaler = import_realesrgan(path)
    image = torch.rand(1, 3, 8, 4)
    assert (upscaler.config, upscaler.scale) == (config, scale)
    assert torch.equal(upscaler.network(image), network(image))


@pytest.mark.parametrize("blocks", [6, 23])
@pytest.mark.parametrize("scale", [2, 4])
def test_the_blocks_of_official_files_are_counted(tmp_path, scale, blocks):
    config = UpscalerConfig("RRDBNet", scale, num_feat=4, num_block=blocks, num_grow_ch=2)
    torch.save({"params_ema": network_of(config).state_dict()}, tmp_path / "model.pth")
    assert import_realesrgan(tmp_path / "model.pth").config == config


def test_averaged_weights_are_preferred(tmp_path):
    network = network_of(RRDB)
    other = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    path = tmp_path / "model.pth"
    torch.save({"params": other, "params_ema": network.state_dict()}, path)
    assert_same_network(path, network, RRDB)


def test_a_file_that_shrinks_at_the_end_is_refused(tmp_path):
    path = write_srvgg(network_of(SRVGG), tmp_path, shrinks=True)
    with pytest.raises(CheckpointError, match="Take an x4 file"):
        import_realesrgan(path)


def test_another_slope_or_stride_is_refused(tmp_path):
    path = write_rrdb(network_of(RRDB), tmp_path)
    text = path.read_text()
    for old, new in [("2.000000e-01", "1.000000e-01"), (" 4=1", " 3=2 4=1"), ("9=2", "9=1")]:
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(CheckpointError, match="another kind of convolution"):
            import_realesrgan(path)


def test_every_truncation_of_ncnn_files_is_a_checkpoint_error(tmp_path):
    path = write_srvgg(network_of(SRVGG), tmp_path)
    for file in (path, path.with_suffix(".bin")):
        whole = file.read_bytes()
        for length in range(0, len(whole) - 1, 1 + len(whole) // 40):
            file.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                import_realesrgan(path)
        file.write_bytes(whole)
    path.with_suffix(".bin").write_bytes(whole + bytes(4))
    with pytest.raises(CheckpointError, match="its layers use"):
        import_realesrgan(path)


def test_ncnn_with_8_bit_weights_is_refused(tmp_path):
    path = write_srvgg(network_of(SRVGG), tmp_path)
    content = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(struct.pack("<I", 0x000D4B38) + content[4:])
    with pytest.raises(CheckpointError, match="0xd4b38"):
        import_realesrgan(path)


def test_every_truncation_of_a_pth_is_a_checkpoint_error(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"params": network_of(SRVGG).state_dict()}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 1 + len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            import_realesrgan(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        {"params": {}},
        {"params": {"a": 1}},
        {"model.0.weight": torch.ones(2)},
        {"conv_first.weight": torch.ones(2)},
        {"conv_first.weight": torch.ones(2, 3, 3, 3)},
        {"body.0.weight": torch.ones(2, 3, 3, 3), "body.0.bias": torch.ones(2)},
        {"body.0.weight": torch.ones(2)},
        {"body.x.weight": torch.ones(1, 1, 1, 1), "body.0.weight": torch.ones(2)},
    ],
)
def test_foreign_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        import_realesrgan(tmp_path / "model.pth")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"params": math.sqrt}, protocol=2))
    with pytest.raises(CheckpointError):
        import_realesrgan(tmp_path / "model.pth")


def test_missing_files_are_named(tmp_path):
    for name in ("model.pth", "model.param"):
        with pytest.raises(CheckpointError, match=name):
            import_realesrgan(tmp_path / name)
    write_srvgg(network_of(SRVGG), tmp_path)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"model\.bin"):
        import_realesrgan(tmp_path / "model.param")


def test_float16_rows_of_odd_length_are_padded():
    assert len(packed(torch.ones(3), float16=True)) == 12
    assert np.frombuffer(packed(torch.ones(2), float16=True)[4:], "<f2").tolist() == [1, 1]
