"""What a person would see, whatever the file says it is."""

import contextlib

import numpy as np
import pytest
from PIL import Image

from rapid_diffusion.datasets.pictures import decode, square
from rapid_diffusion.datasets.rows import RowError

from .conftest import BROKEN_FILES, encode, picture

RED = (200, 30, 30)


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.putpixel((0, 0), (*RED, 255))
    pixels = np.asarray(decode(encode(image)))
    assert tuple(pixels[0, 0]) == RED
    assert (pixels[1:] == 255).all()


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "1", "L", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = Image.new("RGB", (10, 10), "white").convert(mode)
    kind = "TIFF" if mode in ("CMYK", "PA") else "PNG"
    if mode == "PA":
        image = image.convert("LA")
    assert (np.asarray(decode(encode(image, kind))) == 255).all()


def test_a_transparent_palette_lies_on_white():
    image = Image.new("P", (10, 10), 0)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((3, 3), 1)
    pixels = np.asarray(decode(encode(image, transparency=0)))
    assert tuple(pixels[3, 3]) == RED
    assert (pixels[0] == 255).all()


def test_sixteen_bits_become_eight():
    values = np.full((10, 10), 0x7F00, np.uint16)
    assert (np.asarray(decode(encode(Image.fromarray(values)))) == 0x7F).all()


def test_exif_orientation_is_obeyed():
    image = Image.new("RGB", (20, 10), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    assert decode(encode(image, "JPEG", exif=exif)).size == (10, 20)


def test_of_an_animation_the_first_frame_is_taken():
    first, second = (Image.new("RGB", (10, 10), c) for c in ("red", "blue"))
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encode(first, kind, save_all=True, append_images=[second], **options)
        assert tuple(np.asarray(decode(content))[5, 5]) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_cut_anywhere_is_a_picture_or_a_named_error(kind):
    content = picture(0, kind, 24)
    for end in range(0, len(content), 97):
        with contextlib.suppress(RowError):
            assert decode(content[:end]).size == (24, 24)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_file_with_wrong_bytes_is_a_picture_or_a_named_error(kind):
    content = bytearray(picture(0, kind, 24))
    generator = np.random.default_rng(0)
    for _ in range(60):
        spoiled = content.copy()
        for place in generator.integers(0, len(content), 3):
            spoiled[place] ^= int(generator.integers(1, 256))
        with contextlib.suppress(RowError):
            assert decode(bytes(spoiled)).mode == "RGB"


@pytest.mark.parametrize("name", sorted(BROKEN_FILES))
def test_what_is_no_picture_is_refused(name):
    with pytest.raises(RowError):
        decode(BROKEN_FILES[name])


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (400, 9), (8, 8), (33, 31)])
def test_a_square_holds_the_whole_picture_in_its_middle(size):
    pixels = np.asarray(square(Image.new("RGB", size, "black"), 16))
    dark = pixels[..., 0] < 128
    rows, columns = dark.any(1).sum(), dark.any(0).sum()
    assert max(rows, columns) == 16
    assert dark[7:9, 7:9].any()
    assert min(rows, columns) == max(1, round(16 * min(size) / max(size)))


def test_squares_of_two_sizes_show_the_same_place():
    image = Image.new("RGB", (100, 37), "black")
    small, large = (np.asarray(square(image, side, 16))[..., 0] < 128 for side in (16, 64))
    assert (np.kron(small, np.ones((4, 4))) == large).all()
