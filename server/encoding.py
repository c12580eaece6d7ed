"""Pixels to files: PNG by our own encoder, JPEG and WebP by Pillow, each with its implicit label.

Runs in threads of its own (`beside_the_loop`), or in those that write; never on the event loop.
"""

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rapid_diffusion.images.label import Position, draw_label, pillow_metadata, png_text
from rapid_diffusion.images.png import encode_png
from server.schemas import ImageFormat

Given = TypeVarTuple("Given")
Made = TypeVar("Made")
#: Threads of their own: what waits for the disk in the event loop's pool keeps no picture waiting.
_ENCODERS = ThreadPoolExecutor(os.cpu_count(), "encoder")


@dataclass(frozen=True)
class EncodedImage:
    """One picture as a file, with the hash of its pixels, label and all, before any lossy step."""

    content: bytes
    mime_type: str
    width: int
    height: int
    pixel_sha256: str

    def base64(self) -> str:
        """The file in base64."""
        return base64.b64encode(self.content).decode("ascii")

    def describe(self, seed: int) -> dict[str, Any]:
        """The picture as an entry of a response's `data`, without its bytes."""
        return {
            "seed": seed,
            "width": self.width,
            "height": self.height,
            "mime_type": self.mime_type,
            "pixel_sha256": self.pixel_sha256,
        }


async def beside_the_loop(make: Callable[[*Given], Made], *given: *Given) -> Made:
    """What `make` makes of `given`, in a thread for encoding."""
    return await asyncio.get_running_loop().run_in_executor(_ENCODERS, make, *given)


def encode_image(
    pixels: NDArray[np.uint8],
    image_format: ImageFormat,
    quality: int,
    text: dict[str, str],
    label: Position | None = None,
) -> EncodedImage:
    """Encode (H, W, 3) uint8 pixels with the explicit label in the corner `label`, if any.

    `text` goes into PNG chunks or EXIF.
    """
    if label is not None:
        pixels = draw_label(pixels, label)
    if image_format == "png":
        content = encode_png(pixels, png_text(text))
    else:
        content = _encode_with_pillow(pixels, image_format, quality, text)
    height, width = pixels.shape[:2]
    return EncodedImage(content, f"image/{image_format}", width, height, pixel_sha256(pixels))


def pixel_sha256(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of the raw bytes of (H, W, 3) pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _encode_with_pillow(
    pixels: NDArray[np.uint8], image_format: ImageFormat, quality: int, text: dict[str, str]
) -> bytes:
    file = io.BytesIO()
    # Colour at full size: halved, it bleeds over the sharp edges of drawings.
    options: dict[str, Any] = {"subsampling": 0} if image_format == "jpeg" else {}
    options |= pillow_metadata(text)
    Image.fromarray(pixels).save(file, image_format.upper(), quality=quality, **options)
    return file.getvalue()
