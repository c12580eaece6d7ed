"""The draft: made from the sentence, saved beside the UNet, and never missed silently."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rapid_diffusion.config import DenoiserConfig, DraftConfig
from rapid_diffusion.denoising.denoiser import Denoiser, build_denoiser, load_denoiser
from rapid_diffusion.denoising.draft import SentenceDraft
from rapid_diffusion.errors import CheckpointError

TINY = DenoiserConfig(4, 6, (8, 16), (False, True), 1, 8, 16, 4, draft=12)


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 6, 4, 4, generator=generator)
    hidden = torch.randn(2, 5, 16, generator=generator)
    return rows, torch.tensor([900.0, 100.0]), hidden, torch.ones(2, 5, dtype=torch.bool)


def drafting(config: DenoiserConfig = TINY) -> Denoiser:
    """A denoiser whose draft already says something."""
    denoiser = build_denoiser(config).eval()
    assert denoiser.draft is not None
    torch.nn.init.normal_(denoiser.draft.output.weight)
    torch.nn.init.normal_(denoiser.network.conv_out.weight)
    return denoiser


def test_the_draft_has_the_latents_shape_and_differs_from_sentence_to_sentence() -> None:
    draft = drafting().draft
    assert draft is not None
    drafted = draft(inputs()[2][:, 0])
    assert drafted.shape == (2, 6, 4, 4)
    assert drafted.std((2, 3)).min() > 0
    assert not torch.equal(drafted[0], drafted[1])


def test_a_draft_begins_with_the_mean_latents_whatever_the_sentence() -> None:
    draft = SentenceDraft(DraftConfig(6, 4, 16, hidden=12)).eval()
    mean = torch.randn(6, 4, 4)
    draft.start_from(mean)
    assert torch.equal(draft(torch.randn(3, 16)), mean.expand(3, -1, -1, -1))


def test_the_unet_sees_the_draft() -> None:
    denoiser = drafting()
    with torch.inference_mode():
        before = denoiser(*inputs())
        denoiser.draft.start_from(torch.ones(6, 4, 4))
        assert not torch.equal(denoiser(*inputs()), before)


def test_drafts_made_beforehand_change_no_bit() -> None:
    denoiser = drafting()
    with torch.inference_mode():
        given = denoiser(*inputs(), denoiser.drafts(inputs()[2]))
        assert torch.equal(denoiser(*inputs()), given)


def test_latents_keep_their_channels_and_the_draft_comes_back_to_the_bit(tmp_path: Path) -> None:
    denoiser = drafting()
    denoiser.save(tmp_path / "unet")
    loaded = load_denoiser(tmp_path / "unet").eval()
    assert loaded.channels == 6
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs()), denoiser(*inputs()))


def test_a_missing_draft_is_named(tmp_path: Path) -> None:
    build_denoiser(TINY).save(tmp_path / "unet")
    (tmp_path / "draft").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="draft"):
        load_denoiser(tmp_path / "unet")


def test_without_a_draft_there_is_no_folder(tmp_path: Path) -> None:
    build_denoiser(replace(TINY, draft=0)).save(tmp_path / "unet")
    assert not (tmp_path / "draft").exists()
    assert load_denoiser(tmp_path / "unet").draft is None
