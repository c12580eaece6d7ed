"""A picture into a file, whole or not at all."""

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.files import write_bytes
from rapid_diffusion.images.convert import Pixels, pillow_to_pixels
from rapid_diffusion.images.label import pillow_metadata, png_text
from rapid_diffusion.images.png import encode_png

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
QUALITY = 95


def save_image(
    path: str | Path, picture: Pixels | Image.Image, text: Mapping[str, str] | None = None
) -> None:
    """Write a uint8 (H, W, 3) array or a Pillow picture in the format of the suffix of `path`.

    `text` goes into PNG text chunks, or into the EXIF UserComment of JPEG and WebP.

    Raises:
        InvalidRequestError: field `output`: another suffix than `SUFFIXES`.
        OutputError: the file could not be written; what was at `path` is as before.
    """
    write_bytes(path, encode_picture(picture, check_suffix(path), text))


def check_suffix(path: str | Path) -> str:
    """The lower-case suffix of `path`, so that a wrong one is refused before anything is drawn.

    Raises:
        InvalidRequestError: field `output`: another suffix than `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidRequestError(
            "output", f"{str(path)!r} ends in {suffix!r}; it must end in {', '.join(SUFFIXES)}"
        )
    return suffix


def encode_picture(
    picture: Pixels | Image.Image, suffix: str, text: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a file with that suffix, one of `SUFFIXES`; colour is kept at full size."""
    pixels = pillow_to_pixels([picture])[0] if isinstance(picture, Image.Image) else picture
    if suffix == ".png":
        return encode_png(pixels, png_text(text or {}))
    file = io.BytesIO()
    metadata = pillow_metadata(text or {})
    image = Image.fromarray(pixels)
    if suffix == ".webp":
        image.save(file, "WEBP", quality=QUALITY, **metadata)
    else:
        # Without `subsampling=0` the red edges of flat drawings bleed.
        image.save(file, "JPEG", quality=QUALITY, subsampling=0, **metadata)
    return file.getvalue()
