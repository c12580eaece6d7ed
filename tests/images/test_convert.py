import numpy as np
import pytest
import torch
from PIL import Image

from rapid_diffusion.images.convert import (
    model_to_unit,
    pillow_to_pixels,
    pixels_to_pillow,
    pixels_to_unit,
    unit_to_model,
    unit_to_pixels,
)

EVERY_LEVEL = np.arange(768, dtype=np.int64).astype(np.uint8).reshape(2, 16, 8, 3)


def test_every_level_survives_the_way_through_all_ranges():
    model = unit_to_model(pixels_to_unit(EVERY_LEVEL))
    assert model.shape == (2, 3, 16, 8)
    assert (model.min(), model.max()) == (-1, 1)
    pictures = pixels_to_pillow(unit_to_pixels(model_to_unit(model)))
    assert np.array_equal(pillow_to_pixels(pictures), EVERY_LEVEL)


def test_levels_are_rounded_to_the_nearest_and_clamped():
    values = torch.tensor([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.0, 1.7])
    pixels = unit_to_pixels(values.reshape(1, 1, 1, -1).expand(1, 3, 1, -1))
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_white_stays_white_in_half_precision():
    assert (unit_to_pixels(model_to_unit(torch.ones(1, 3, 2, 2).bfloat16())) == 255).all()


def test_nan_is_not_turned_into_black():
    nan = torch.full((1, 3, 2, 2), float("nan"))
    assert torch.isnan(model_to_unit(nan)).all()
    with pytest.raises(ValueError, match="NaN"):
        unit_to_pixels(nan)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "1"])
def test_transparent_places_are_laid_on_white(mode):
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode)
    has_alpha = mode in ("RGBA", "LA", "PA")
    assert (pillow_to_pixels([clear]) == (255 if has_alpha else 0)).all()
