"""The four ranges of a picture, and the one named function that leads from each to the next.

model   float tensor (B, 3, H, W) in [-1, 1]     autoencoder and UNet
unit    float tensor (B, 3, H, W) in [0, 1]      upscaler
pixels  uint8 array  (B, H, W, 3)                outside
pillow  list of PIL.Image.Image, RGB             outside
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Pixels = npt.NDArray[np.uint8]


def model_to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped: an autoencoder may overshoot a little. NaN stays NaN."""
    return (images / 2 + 0.5).clamp(0, 1)


def unit_to_model(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return images * 2 - 1


def unit_to_pixels(images: Tensor) -> Pixels:
    """(B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3), rounded to the nearest of 256 levels.

    Raises:
        ValueError: a NaN, which no pixel can show.
    """
    if bool(torch.isnan(images).any()):
        raise ValueError("the images hold NaN; find its origin before converting to pixels")
    levels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


def pixels_to_unit(pixels: Pixels) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1]."""
    channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).float() / 255


def pixels_to_pillow(pixels: Pixels) -> list[Image.Image]:
    """uint8 (B, H, W, 3) -> B RGB pictures."""
    return [Image.fromarray(picture) for picture in pixels]


def pillow_to_pixels(pictures: Sequence[Image.Image]) -> Pixels:
    """Pictures of one size -> uint8 (B, H, W, 3); transparent places are laid on white."""
    return np.stack([np.asarray(_on_white(picture)) for picture in pictures])


def _on_white(picture: Image.Image) -> Image.Image:
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    layered = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, layered).convert("RGB")
