"""The bytes of a picture's file -> upright RGB on white -> a square of the training's size."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rapid_diffusion.datasets.rows import Problem, Row, RowError

#: About the largest camera; 80 million pixels are 320 MB while they are decoded.
MOST_PIXELS = 80_000_000
LEAST_SIDE = 8
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
WHITE = (255, 255, 255)
# What Pillow's decoders raise on bytes that are not what they say.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Decoded:
    """A row and its picture: RGB, upright, on white, of the size it came in."""

    row: Row
    image: Image.Image


def decode_all(rows: Iterable[Row | Problem]) -> Iterator[Decoded | Problem]:
    """Decode each row's picture; those that cannot be decoded join the problems."""
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        try:
            yield Decoded(row, decode(row.picture))
        except RowError as error:
            yield Problem(row.where, str(error))


def decode(content: bytes) -> Image.Image:
    """RGB as a person would see the picture on white paper; of an animation the first frame.

    EXIF orientation is obeyed, transparency lies on white, 16 bits become 8; colour profiles are
    not applied. Raises `RowError` saying what is wrong with the bytes.
    """
    if not content:
        raise RowError("the picture is empty (0 bytes)")
    if content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise RowError("the picture is a page of HTML")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Raised by `Image.open` before a pixel is decoded.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
        except UnidentifiedImageError as error:
            raise RowError(f"not a picture; {', '.join(FORMATS)} are read") from error
        except _DECODING_ERRORS as error:
            raise RowError(f"the picture cannot be decoded ({error})") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise RowError(f"{width}x{height} pixels; {MOST_PIXELS // 10**6} million are allowed")
    if min(width, height) < LEAST_SIDE:
        raise RowError(f"{width}x{height} pixels; a side has {LEAST_SIDE} at least")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise RowError("the pixels are floats without a known range; save them with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, WHITE)
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise RowError("the pixels have 32 bits without a known range; save them with 8 or 16")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def square(image: Image.Image, size: int, grid: int | None = None) -> Image.Image:
    """The whole picture in the middle of a white square of `size` pixels, enlarged if need be.

    Its edges lie on the pixels of a square of `grid` pixels (a divisor of `size`; `size` itself
    if left out), so that squares of several sizes show the same thing in the same place.
    """
    grid = grid or size
    width, height = image.size
    longest = max(width, height)
    inner = [max(1, round(side * grid / longest)) for side in (width, height)]
    scale = size // grid
    fitted = image.resize((inner[0] * scale, inner[1] * scale), Image.Resampling.LANCZOS)
    paper = Image.new("RGB", (size, size), WHITE)
    paper.paste(fitted, ((grid - inner[0]) // 2 * scale, (grid - inner[1]) // 2 * scale))
    return paper
