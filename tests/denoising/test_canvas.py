"""The canvas: painted from the sentence, saved beside the UNet, and never missed silently."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rapid_diffusion.config import DenoiserConfig
from rapid_diffusion.denoising.denoiser import build_denoiser, load_denoiser
from rapid_diffusion.errors import CheckpointError

TINY = DenoiserConfig(4, 6, (8, 16), (False, True), 1, 8, 16, 4, canvas=2)


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 6, 4, 4, generator=generator)
    hidden = torch.randn(2, 5, 16, generator=generator)
    return rows, torch.tensor([900.0, 100.0]), hidden, torch.ones(2, 5, dtype=torch.bool)


def test_the_canvas_differs_from_place_to_place_and_from_sentence_to_sentence() -> None:
    canvas = build_denoiser(TINY).canvas
    assert canvas is not None
    painted = canvas(inputs()[2][:, 0])
    assert painted.shape == (2, 2, 4, 4)
    assert painted.std((2, 3)).min() > 0
    assert not torch.equal(painted[0], painted[1])


def test_latents_keep_their_channels_and_the_canvas_comes_back_to_the_bit(tmp_path: Path) -> None:
    denoiser = build_denoiser(TINY).eval()
    torch.nn.init.normal_(denoiser.network.conv_out.weight)
    denoiser.save(tmp_path / "unet")
    loaded = load_denoiser(tmp_path / "unet").eval()
    assert loaded.channels == 6
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs()), denoiser(*inputs()))


def test_a_missing_canvas_is_named(tmp_path: Path) -> None:
    build_denoiser(TINY).save(tmp_path / "unet")
    (tmp_path / "canvas").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="canvas"):
        load_denoiser(tmp_path / "unet")


def test_without_a_canvas_there_is_no_folder(tmp_path: Path) -> None:
    build_denoiser(replace(TINY, canvas=0)).save(tmp_path / "unet")
    assert not (tmp_path / "canvas").exists()
    assert load_denoiser(tmp_path / "unet").canvas is None
