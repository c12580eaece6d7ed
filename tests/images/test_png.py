import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from rapid_diffusion.images.png import _filtered, encode_png

SIDES = st.integers(1, 17)
PIXELS = st.tuples(SIDES, SIDES, st.just(3)).flatmap(lambda shape: arrays(np.uint8, shape))
KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=79)
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def decode(content):
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def gradient(axis):
    ramp = np.arange(64, dtype=np.uint8).reshape((64, 1) if axis == 0 else (1, 64))
    return np.repeat(np.broadcast_to(ramp * ramp, (64, 64))[..., None], 3, axis=2)


@settings(max_examples=100, deadline=None)
@given(pixels=PIXELS, text=st.dictionaries(KEYS, VALUES, max_size=3))
def test_pillow_decodes_equal_pixels_and_text(pixels, text):
    picture = decode(encode_png(pixels, text))
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), pixels)
    assert picture.text == text


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (255, 3), (129, 131)])
def test_noise_of_odd_sizes_comes_back(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode(encode_png(pixels))), pixels)


def test_views_that_are_not_contiguous_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8), dtype=np.uint8)
    view = pixels.transpose(0, 2, 1)[::2, ::-1]
    assert np.array_equal(np.asarray(decode(encode_png(view))), view)


@pytest.mark.parametrize(("axis", "kind"), [(0, 1), (1, 2)])
def test_the_filter_runs_along_the_axis_without_change(axis, kind):
    assert set(_filtered(gradient(axis))[1:, 0]) == {kind}
    assert np.array_equal(np.asarray(decode(encode_png(gradient(axis)))), gradient(axis))


def test_a_thousand_random_pictures_come_back():
    generator = np.random.default_rng(0)
    for number in range(1000):
        shape = (*generator.integers(1, 40, 2), 3)
        noise = generator.integers(0, 2 ** (number % 9), shape)
        steps = noise.cumsum(number % 2).cumsum(number % 3 % 2)  # from noise to smooth
        pixels = (noise if number % 5 == 0 else steps).astype(np.uint8)
        assert np.array_equal(np.asarray(decode(encode_png(pixels))), pixels)


@pytest.mark.parametrize("size", [(700, 600), (3, 40_000), (40_000, 3), (90_000, 1)])
def test_large_pictures_whose_rows_are_sampled_come_back(size):
    pixels = np.random.default_rng(0).integers(0, 9, (*size, 3)).cumsum(1).astype(np.uint8)
    assert np.array_equal(np.asarray(decode(encode_png(pixels))), pixels)


def test_rows_of_one_picture_have_the_filters_that_fit_them():
    picture = np.concatenate([gradient(0), gradient(1)])
    kinds = _filtered(picture)[:, 0]
    assert set(kinds[1:64]) == {1}
    assert set(kinds[65:]) == {2}
    assert np.array_equal(np.asarray(decode(encode_png(picture))), picture)


def test_a_smooth_picture_shrinks():
    assert len(encode_png(gradient(0))) < gradient(0).nbytes / 8


def test_every_chunk_has_the_checksum_of_the_standard():
    content = encode_png(gradient(0), {"a": "b", "c": "老虎"})
    place, kinds = 8, []
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        body = content[place + 4 : place + 8 + length]
        check = content[place + 8 + length : place + 12 + length]
        assert zlib.crc32(body) == int.from_bytes(check, "big")
        kinds.append(body[:4])
        place += 12 + length
    assert kinds == [b"IHDR", b"tEXt", b"iTXt", b"IDAT", b"IEND"]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        np.zeros((2, 0, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match=r"pixels are|each side"):
        encode_png(pixels)


@pytest.mark.parametrize("key", ["", " a", "a ", "a  b", "名", "a\n", "a\0b", "k" * 80])
def test_keys_png_does_not_allow_are_refused(key):
    with pytest.raises(ValueError, match="keyword"):
        encode_png(np.zeros((1, 1, 3), np.uint8), {key: "value"})


@pytest.mark.parametrize("value", ["a\0b", "老\0虎", "\ud800"])
def test_values_png_cannot_hold_are_refused(value):
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        encode_png(np.zeros((1, 1, 3), np.uint8), {"key": value})
