import errno
import json
import os
import resource

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rapid_diffusion.checkpoints.folder import (
    folder_digest,
    load_strict,
    quantize_int8,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from rapid_diffusion.errors import CheckpointError, OutputError


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(6, 4, 3, 3), "a.bias": torch.randn(6), "n": torch.arange(3)}


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors"])
def test_what_is_written_is_read_to_the_bit(weights, tmp_path, name):
    write_weights(weights, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        read = read_weights(path)
        assert set(read) == set(weights)
        assert all(torch.equal(read[key], weights[key]) for key in weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_are_read_as_float32(weights, tmp_path, dtype):
    write_weights({"w": weights["a.weight"].to(dtype)}, tmp_path / "model.safetensors")
    read = read_weights(tmp_path)["w"]
    assert torch.equal(read, weights["a.weight"].to(dtype).float())


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.float32])
def test_int8_is_read_within_half_a_scale(weights, tmp_path, scale_dtype):
    stored = quantize_int8(weights, min_size=100)
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.bias"] is weights["a.bias"]
    scale = stored["a.weight.scale"].to(scale_dtype)
    write_weights({**stored, "a.weight.scale": scale}, tmp_path / "model.safetensors")
    read = read_weights(tmp_path)
    assert set(read) == set(weights)
    assert read["a.weight"].dtype == torch.float32
    error = (read["a.weight"] - weights["a.weight"]).abs().amax((1, 2, 3))
    slack = 0.51 if scale_dtype == torch.float32 else 0.6
    assert (error <= slack * scale.float()).all()


def test_rows_of_zeros_and_of_tiny_numbers_survive_int8(tmp_path):
    rows = torch.stack([torch.zeros(64), torch.full((64,), 1e-30), torch.full((64,), -3e4)])
    write_weights(quantize_int8({"w": rows}, min_size=1), tmp_path / "model.safetensors")
    torch.testing.assert_close(read_weights(tmp_path)["w"], rows)


def test_int8_without_or_with_a_wrong_scale_is_refused(tmp_path):
    values = torch.ones(4, 2, dtype=torch.int8)
    for scale in ({}, {"w.scale": torch.ones(2)}, {"w.scale": torch.ones(4, dtype=torch.int32)}):
        save_file({"w": values, **scale}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"w\.scale"):
            read_weights(tmp_path)


def test_a_parameter_called_scale_is_an_ordinary_one(tmp_path):
    write_weights({"norm.scale": torch.ones(2), "norm": torch.ones(2)}, tmp_path / "w.safetensors")
    assert set(read_weights(tmp_path / "w.safetensors")) == {"norm.scale", "norm"}


def test_every_truncation_is_a_checkpoint_error(weights, tmp_path):
    file = tmp_path / "model.safetensors"
    write_weights(weights, file)
    whole = file.read_bytes()
    for length in [*range(12), *range(12, len(whole), 37), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read_weights(tmp_path)
        assert caught.value.path == file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04" + bytes(60), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"<html>404</html>", "truncated"),
        (bytes(4096), "truncated"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path, content, told):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        read_weights(tmp_path)


def test_missing_weights_say_what_is_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*convert"):
        read_weights(tmp_path)


def test_strict_loading_lists_what_does_not_fit(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = module.state_dict()
    del weights["0.bias"]
    weights["extra"] = torch.ones(1)
    weights["1.weight"] = torch.ones(1, 7)
    before = module[0].weight.clone()
    with pytest.raises(CheckpointError, match=r"0\.bias.*extra.*1\.weight \(1, 7\) for \(1, 3\)"):
        load_strict(module, weights, tmp_path)
    assert torch.equal(module[0].weight, before)


def test_strict_loading_lists_only_the_first_few(tmp_path):
    module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(50)))
    with pytest.raises(CheckpointError, match="and 96 more"):
        load_strict(module, {}, tmp_path)


def test_tied_and_strided_tensors_can_be_written(tmp_path):
    table = torch.rand(3, 4)
    write_weights({"a": table, "b": table, "c": table.T}, tmp_path / "model.safetensors")
    assert torch.equal(read_weights(tmp_path)["c"], table.T)


def test_a_write_cut_short_keeps_the_old_file(weights, tmp_path):
    file = tmp_path / "model.safetensors"
    write_weights({"old": torch.ones(2)}, file)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        with pytest.raises(OutputError, match=r"model\.safetensors"):
            write_weights(weights, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert "old" in read_weights(file)


def test_a_full_disk_keeps_the_old_json(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "config.json", {"名": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"config\.json.*No space"):
        write_json(tmp_path / "config.json", {"名": 2})
    assert os.listdir(tmp_path) == ["config.json"]
    assert read_json(tmp_path / "config.json") == {"名": 1}


def test_new_files_obey_the_umask(tmp_path):
    before = os.umask(0o022)
    write_json(tmp_path / "config.json", {})
    os.umask(before)
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 200_000, b"null"])
def test_what_is_not_a_json_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="No such file"):
        read_json(tmp_path / "other.json")


def test_the_digest_knows_names_and_contents_only(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("1")
        (tmp_path / name / "y").write_text(json.dumps({}))
    first = folder_digest(tmp_path / "a")
    (tmp_path / "a" / ".hidden").write_text("z")
    os.utime(tmp_path / "a" / "y", (0, 0))
    assert first.startswith("sha256:")
    assert first == folder_digest(tmp_path / "a")
    assert first == folder_digest(tmp_path / "b")
    (tmp_path / "a" / "y").rename(tmp_path / "a" / "z")
    assert folder_digest(tmp_path / "a") != first
    with pytest.raises(CheckpointError, match="no such folder"):
        folder_digest(tmp_path / "c")
