"""The label that people see: large enough, readable anywhere, and in its corner only."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images import explicit
from rapid_diffusion.images.label import POSITIONS, draw_label, holds_label

SIZES = [(28, 28), (32, 32), (64, 64), (128, 96), (256, 256), (512, 512), (768, 1024), (2048, 2048)]
SHADES = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (255, 255, 0), (0, 255, 255)]


def flat(height: int, width: int, shade: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance as WCAG 2 has it."""
    unit = pixels / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_text_is_a_twentieth_of_the_shorter_side_and_twelve_pixels(height, width):
    labelled = draw_label(flat(height, width))
    inked = (labelled[..., 0] >= 128).any(axis=1)
    if min(height, width) < 48:  # in two lines
        assert inked.sum() >= 2 * 12 - 3  # Latin capitals are lower than the ideographs
    else:
        assert inked.sum() >= max(12, min(height, width) / 20)
    assert (labelled == 255).any()


@pytest.mark.parametrize("shade", SHADES)
def test_contrast_is_that_of_readable_text_on_every_ground(shade):
    labelled = draw_label(flat(256, 256, shade))
    seen = luminance(labelled[labelled.shape[0] // 2 :, labelled.shape[1] // 2 :])
    plate = luminance(np.array(shade) * 2 // 5)
    assert (seen.max() + 0.05) / (plate + 0.05) >= 4.5


@pytest.mark.parametrize("position", POSITIONS)
def test_label_is_in_its_corner_and_nowhere_else(position):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    before = pixels.copy()
    rows, columns = np.nonzero((draw_label(pixels, position) != pixels).any(axis=2))
    upright, sideways = position.split("_")
    assert (rows.min() >= 100) == (upright == "bottom")
    assert (rows.max() < 100) == (upright == "top")
    assert (columns.min() >= 150) == (sideways == "right")
    assert np.array_equal(pixels, before)


def test_its_four_glyphs_are_drawn_and_not_boxes():
    font = ImageFont.truetype(explicit._FONT, 40)
    shapes = {bytes(font.getmask(character)) for character in explicit.TEXT}
    assert bytes(font.getmask("画")) not in shapes  # what the font lacks
    assert len(shapes) == len(explicit.TEXT) == 4
    assert font.getname() == ("Rapid Label", "Bold")  # no reserved name, no trademark


def test_font_comes_with_its_licence():
    folder = Path(explicit._FONT).parent
    licence = (folder / "OFL.txt").read_text(encoding="utf-8")
    assert "Copyright 2014-2021 Adobe" in licence
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000


@pytest.mark.parametrize(("height", "width"), [(27, 27), (1, 1), (12, 400), (400, 20)])
def test_what_cannot_hold_the_text_is_refused(height, width):
    assert not holds_label(height, width)
    with pytest.raises(InvalidRequestError, match=f"{width}x{height}") as caught:
        draw_label(flat(height, width))
    assert caught.value.field == "label.explicit"


def test_no_other_place_is_taken():
    with pytest.raises(InvalidRequestError, match=r"middle.*top_left") as caught:
        draw_label(flat(64, 64), "middle")
    assert caught.value.field == "label.position"


def test_every_size_that_holds_it_is_drawn_without_touching_the_rest():
    for size in range(20, 140):
        pixels = flat(size, 160 - size, (9, 9, 9))
        if holds_label(*pixels.shape[:2]):
            assert draw_label(pixels).shape == pixels.shape
