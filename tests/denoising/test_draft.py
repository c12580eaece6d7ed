"""The draft: made from the sentence, saved beside the UNet, and never missed silently."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rapid_diffusion.config import DenoiserConfig, DraftConfig
from rapid_diffusion.denoising.denoiser import Denoiser, build_denoiser, load_denoiser
from rapid_diffusion.denoising.draft import RandomCosines, SentenceDraft
from rapid_diffusion.errors import CheckpointError

TINY = DenoiserConfig(4, 6, (8, 16), (False, True), 1, 8, 16, 4, draft=12)
AROUND = replace(TINY, draft_rank=3, draft_spread=True)
WIDE = replace(TINY, draft_rank=3, draft_cosines=40)


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
    if config.draft_cosines:
        torch.nn.init.normal_(denoiser.draft.wide.weight)
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


@pytest.mark.parametrize("config", [TINY, AROUND, WIDE])
def test_drafts_made_beforehand_change_no_bit(config: DenoiserConfig) -> None:
    denoiser = drafting(config)
    with torch.inference_mode():
        given = denoiser(*inputs(), denoiser.drafts(inputs()[2]))
        assert torch.equal(denoiser(*inputs()), given)


@pytest.mark.parametrize("config", [TINY, AROUND, WIDE])
def test_latents_keep_their_channels_and_the_draft_comes_back_to_the_bit(
    tmp_path: Path, config: DenoiserConfig
) -> None:
    denoiser = drafting(config)
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


@pytest.mark.parametrize("config", [AROUND, WIDE])
def test_drafts_of_a_rank_lie_in_that_many_dimensions(config: DenoiserConfig) -> None:
    draft = drafting(config).draft
    assert draft is not None
    drafted = draft.mean(torch.randn(20, 16)).flatten(1) - draft.output.bias
    assert torch.linalg.matrix_rank(drafted.double(), rtol=1e-5) == 3


def test_products_of_random_cosines_are_a_gaussian_of_the_distance() -> None:
    cosines = RandomCosines(16, 20_000)
    cosines.length.fill_(3.0)
    x = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    features = cosines(x)
    wanted = torch.exp(-torch.cdist(x, x).square() / (2 * 3.0**2))
    assert torch.allclose(features @ features.T / 20_000, wanted, atol=0.04)


def test_random_cosines_are_the_same_wherever_they_are_made_and_are_in_no_file() -> None:
    cosines = RandomCosines(3, 2)
    assert list(cosines.state_dict()) == ["length"]
    deviation = (8 * (256**2 - 1) / 12) ** 0.5
    sums = (cosines.weight * deviation).round().tolist()
    assert sums == [[-23, 10, -104], [-73, 223, -148]]
    assert cosines.phase.tolist() == pytest.approx([0.574406, 1.194136], abs=1e-6)


@pytest.mark.parametrize("time", [0.02, 0.4, 0.97])
def test_around_a_draft_a_silent_unet_is_the_best_guess(time: float) -> None:
    """No straight line through the noisy latents guesses the velocity better than it."""
    denoiser = build_denoiser(AROUND).eval()
    assert denoiser.draft is not None
    channels, places = torch.tensor([0.1, 0.3, 0.5, 1.0, 1.5, 3.0]), torch.rand(4, 4) + 0.5
    denoiser.draft.log_spread.data = channels.log()
    spread = channels[:, None, None] * places
    generator = torch.Generator().manual_seed(1)
    drafts, apart, noise = torch.randn(3, 1000, 6, 4, 4, generator=generator)
    picture = drafts + spread * apart
    noisy = (1 - time) * picture + time * noise
    hidden, mask = torch.zeros(1000, 5, 16), torch.ones(1000, 5, dtype=torch.bool)
    told = torch.cat([drafts, places.log().expand(1000, 1, 4, 4)], 1)
    with torch.inference_mode():
        guess = denoiser(noisy, torch.full((1000,), 1000 * time), hidden, mask, told)
    unit = spread / ((1 - time) ** 2 * spread**2 + time**2).sqrt()
    wrong = ((noise - picture - guess) / unit).square().mean((0, 2, 3)).sqrt()
    assert wrong.tolist() == pytest.approx([1.0] * 6, rel=0.02)
    given, wanted = noisy - (1 - time) * drafts, noise - picture + drafts
    slope = (given * wanted).sum(0) / given.square().sum(0)
    least = (wanted - slope * given).square().mean().item()
    assert (noise - picture - guess).square().mean().item() == pytest.approx(least, rel=0.01)


def test_a_draft_learns_its_spread_and_is_not_moved_by_it() -> None:
    channels = torch.tensor([0.1, 0.5, 2.0])
    places = torch.full((4, 4), 1.0)
    places[:2] = 0.5
    drafts = [
        SentenceDraft(DraftConfig(3, 4, 16, hidden=12, dropout=0.0, spread=learned))
        for learned in (True, False)
    ]
    drafts[1].load_state_dict(drafts[0].state_dict(), strict=False)
    for draft in drafts:
        generator = torch.Generator().manual_seed(2)
        optimizer = torch.optim.Adam(draft.parameters(), 0.02)
        for _ in range(400):
            apart = torch.randn(64, 3, 4, 4, generator=generator)
            latents = 1 + channels[:, None, None] * places * apart
            optimizer.zero_grad()
            draft.loss(torch.zeros(64, 16), latents).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    learned, plain = drafts
    sentence = torch.zeros(1, 16)
    told = (learned.log_spread[:, None, None] + learned(sentence)[0, 3]).exp()
    assert torch.allclose(told, channels[:, None, None] * places, rtol=0.2)
    assert torch.equal(learned.mean(sentence), plain.mean(sentence))


def test_a_draft_held_to_what_it_said_tells_how_far_the_pictures_lie_from_that() -> None:
    """As rehearsed rows of a fine-tuning are."""
    draft = SentenceDraft(DraftConfig(3, 4, 16, hidden=12, dropout=0.0, spread=True))
    optimizer = torch.optim.Adam(draft.parameters(), 0.02)
    sentence, wanted = torch.zeros(64, 16), torch.ones(64, 3, 4, 4)
    generator = torch.Generator().manual_seed(2)
    for _ in range(400):
        latents = 1.5 + 0.1 * torch.randn(64, 3, 4, 4, generator=generator)
        optimizer.zero_grad()
        draft.loss(sentence, latents, wanted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    mean, log_spread = draft.split(draft(sentence))
    assert torch.allclose(mean, wanted, atol=0.02)
    assert torch.allclose(log_spread.exp(), torch.tensor(0.26**0.5), rtol=0.1)
