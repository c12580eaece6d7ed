"""Sizes that do not fit each other are named before a stage begins."""

import pytest

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.run import Training

WIDE = "draft = 12\ndraft_rank = 4\ndraft_cosines = 9"


@pytest.mark.parametrize(
    ("was", "wrong", "field", "allowed"),
    [
        ("sample_size = 8", "sample_size = 16", "denoiser.sample_size", "allowed: 8"),
        ("sample_size = 8\nchannels = 8", "sample_size = 8", "denoiser.channels", "allowed: 8"),
        ("text_width = 16", "text_width = 32", "denoiser.text_width", "as text.width"),
        ("attends = [false, true]", "attends = [true]", "denoiser.attends", "2 of true or false"),
        ("widths = [8, 16]", "widths = [8, 18]", "denoiser.widths", "multiples of 4"),
        ("embedding = 8", "embedding = 8\nside = -1", "image_tower.side", "or above, in pixels"),
        ("embedding = 8", "embedding = 8\nside = 16", "", ""),
        ("draft = 12", "draft = 12\ndraft_rank = 13", "denoiser.draft_rank", "0 to 12"),
        ("draft = 12", "draft = 12\ndraft_rank = -1", "denoiser.draft_rank", "0 to 12"),
        ("draft = 12", "draft = 12\ndraft_rank = 4\ndraft_spread = true", "", ""),
        ("draft = 12", WIDE, "", ""),
        ("draft = 12", "draft = 12\ndraft_cosines = 9", "denoiser.draft_rank", "1 to 12"),
        ("draft = 12", f"{WIDE}\ndraft_spread = true", "denoiser.draft_spread", "another draft"),
        ("draft = 12", "draft_spread = true", "denoiser.draft_spread", "makes no draft"),
        ("channels = 8", "channels = 49", "autoencoder.channels", "1 to 48"),
        ("\nscale = 2", "\nscale = 4", "model.upscale", "allowed: 4"),
        ("upscale = 2\n", "upscale = 1\n", "", ""),
        ("large.npy", "small.npy", "upscaler.scale", "allowed: 1, large pictures of 32 px"),
        ("large.npy", "missing.npy", "", ""),
    ],
)
def test_the_size_that_does_not_fit_is_named_with_the_one_that_would(
    write_config, was, wrong, field, allowed
):
    path = write_config()
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, wrong, 1))
    if not field:
        Training(read_training_config(path))
        return
    with pytest.raises(InvalidRequestError, match=allowed) as caught:
        Training(read_training_config(path))
    assert caught.value.field == field
