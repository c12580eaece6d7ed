"""The label that people see: "AI生成" in a corner, in white on a dark plate.

China's GB 45438-2025, as secondary sources describe it, wants text of at least 5 % of the shorter
side; ours has at least 12 pixels too. No compliance is claimed. The same pixels and position give
the same label, as far as FreeType does: another release of it may round an edge differently.
"""

from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images.convert import Pixels

TEXT = "AI生成"
LEAST_HEIGHT = 12  # pixels of the text
Position = Literal["bottom_right", "bottom_left", "top_left", "top_right"]
POSITIONS: tuple[Position, ...] = get_args(Position)

_FONT = Path(__file__).parent / "font" / "RapidLabel-Bold.otf"
_IN_ONE_LINE, _IN_TWO_LINES = (TEXT,), (TEXT[:2], TEXT[2:])
Mask = npt.NDArray[np.uint8]


def draw_label(pixels: Pixels, position: str = "bottom_right") -> Pixels:
    """A copy of `pixels`, uint8 (H, W, 3), with the label in that corner, one of `POSITIONS`.

    White on whatever is below it, darkened to two fifths: the contrast is at least 5.7 to 1.

    Raises:
        InvalidRequestError: field `label.position`: no such corner; field `label.explicit`: a
            picture too small to hold the text.
    """
    if position not in POSITIONS:
        allowed = ", ".join(POSITIONS)
        raise InvalidRequestError("label.position", f"{position!r}; allowed: {allowed}")
    height, width = pixels.shape[:2]
    plate = _plate_for(height, width)
    if plate is None:
        raise InvalidRequestError(
            "label.explicit",
            f"{width}x{height} pixels cannot hold the text {TEXT}; draw a larger picture",
        )
    labelled = pixels.copy()
    corner = labelled[_corner(position, (height, width), plate)]
    below = corner.astype(np.uint16) * 2 // 5
    corner[:] = below + ((255 - below) * plate[..., None] + 127) // 255
    return labelled


def holds_label(height: int, width: int) -> bool:
    """Whether a picture of that size is large enough for the text; from about 28 x 28 on."""
    return _plate_for(height, width) is not None


def label_height(height: int, width: int) -> int:
    """The least height of the text on a picture of that size, in pixels."""
    return max(LEAST_HEIGHT, -(-min(height, width) // 20))


def _corner(position: str, size: tuple[int, int], plate: Mask) -> tuple[slice, slice]:
    """The rows and columns of the plate, a little away from the edges where there is room."""
    upright, sideways = position.split("_")
    places = []
    for length, taken, at_end in zip(
        size, plate.shape, (upright == "bottom", sideways == "right"), strict=True
    ):
        margin = min(min(size) // 40, (length - taken) // 2)
        start = length - taken - margin if at_end else margin
        places.append(slice(start, start + taken))
    return places[0], places[1]


def _plate_for(height: int, width: int) -> Mask | None:
    """How much of each pixel the text covers, 0 to 255, in one line or else in two."""
    for lines in (_IN_ONE_LINE, _IN_TWO_LINES):
        plate = _plate(lines, label_height(height, width))
        if plate.shape[0] <= height and plate.shape[1] <= width:
            return plate
    return None


@lru_cache(maxsize=64)
def _plate(lines: tuple[str, ...], least: int) -> Mask:
    rows = [_ink(line, _font_size(least)) for line in lines]
    gap = max(1, least // 8)
    height = sum(len(row) for row in rows) + gap * (len(rows) + 1)
    plate = np.zeros((height, max(row.shape[1] for row in rows) + 2 * gap), np.uint8)
    top = gap
    for row in rows:
        plate[top : top + len(row), gap : gap + row.shape[1]] = row
        top += len(row) + gap
    return plate


def _font_size(least: int) -> int:
    """The smallest size whose lines are all at least so many pixels high, of full ink."""
    size = least
    while min(_solid_height(_ink(line, size)) for line in (TEXT, TEXT[2:])) < least:
        size += 1
    return size


def _solid_height(ink: Mask) -> int:
    """Rows that have a pixel of at least half ink: a faint fringe is no height."""
    return int((ink.max(axis=1) >= 128).sum())


@lru_cache(maxsize=64)
def _ink(line: str, size: int) -> Mask:
    """A line of text, cropped to its ink."""
    # The layout that needs no optional library, so that every installation draws the same.
    font = ImageFont.truetype(_FONT, size, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("L", (size * (len(line) + 1), 2 * size), 0)
    ImageDraw.Draw(canvas).text((size // 2, size // 4), line, fill=255, font=font)
    return np.asarray(canvas.crop(canvas.getbbox()))
