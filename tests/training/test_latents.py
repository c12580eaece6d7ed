"""Latents are computed once for what makes them, and never read half-written."""

import shutil

import numpy as np
import pytest
import torch

from rapid_diffusion.autoencoder import PatchAutoencoder, PatchConfig
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.training import latents as module
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.data import Examples
from rapid_diffusion.training.latents import encode_all, open_latents


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    made = PatchAutoencoder(PatchConfig(4, 8))
    torch.nn.init.orthogonal_(made.basis)
    return made


def opened(folder, output):
    config = DataConfig(str(folder), pictures="small.npy", large_pictures="large.npy")
    return Examples(config, 12, output)


def files(output):
    return sorted((output / "stages" / "autoencoder").iterdir())


def forbid_encoding(monkeypatch):
    monkeypatch.setattr(module, "_encoded", lambda *_: pytest.fail("encoded again"))


def test_cached_latents_equal_those_in_memory_and_are_computed_once(
    data_folder, tmp_path, autoencoder, monkeypatch
):
    wanted = encode_all(autoencoder, opened(data_folder, None))
    open_latents(autoencoder, opened(data_folder, tmp_path))
    forbid_encoding(monkeypatch)
    examples = opened(data_folder, tmp_path)
    latents = open_latents(autoencoder, examples)
    assert torch.equal(latents[[3, 3, 11]], wanted[[3, 3, 11]])
    assert torch.allclose(latents.mean(), wanted[examples.train].mean(0), atol=1e-6)
    assert len(files(tmp_path)) == 1


def test_other_weights_or_pictures_make_other_latents_and_the_old_ones_go(
    data_folder, tmp_path, autoencoder
):
    folder = shutil.copytree(data_folder, tmp_path / "data")
    open_latents(autoencoder, opened(folder, tmp_path))
    autoencoder.mean += 0.25
    moved = open_latents(autoencoder, opened(folder, tmp_path))
    assert torch.equal(moved[[5]], encode_all(autoencoder, opened(folder, None))[[5]])
    before = files(tmp_path)
    pictures = np.load(folder / "small.npy")
    pictures[5, 0, 0, 0] ^= 1
    np.save(folder / "small.npy", pictures)
    again = open_latents(autoencoder, opened(folder, tmp_path))
    assert torch.equal(again[[5]], encode_all(autoencoder, opened(folder, None))[[5]])
    assert files(tmp_path) != before
    assert len(files(tmp_path)) == len(before) == 1


def test_latents_whose_writing_was_interrupted_are_not_there(
    data_folder, tmp_path, autoencoder, monkeypatch
):
    examples = opened(data_folder, tmp_path)

    part = encode_all(autoencoder, examples)[:5]

    def interrupted(*_):
        yield 0, part
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_encoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_latents(autoencoder, examples)
    assert files(tmp_path) == []
    latents = open_latents(autoencoder, examples)
    assert torch.equal(latents[[11]], encode_all(autoencoder, examples)[[11]])


def test_damaged_latents_are_named(data_folder, tmp_path, autoencoder):
    open_latents(autoencoder, opened(data_folder, tmp_path))
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"latents-.*remove it"):
        open_latents(autoencoder, opened(data_folder, tmp_path))
