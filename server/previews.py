"""Partial images: what a picture looks like on its way, labelled as the picture will be."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rapid_diffusion.images.label import Position, generation_text
from server.capabilities import Capabilities
from server.device import Preview
from server.encoding import EncodedImage, encode_image
from server.labels import label_position
from server.reading import final_size
from server.schemas import GenerationRequest, ImageFormat
from server.settings import Settings

PARTIAL_IMAGE = "image_generation.partial_image"


@dataclass(frozen=True)
class PreviewStyle:
    """How the previews of one request are made: as its pictures, but for the upscaler.

    `size` is the picture's (height, width); `name` is the number that it will have.
    """

    size: tuple[int, int]
    image_format: ImageFormat
    quality: int
    label: Position | None
    producer: str
    name: str


def preview_style(
    asked: GenerationRequest, able: Capabilities, settings: Settings, name: str
) -> PreviewStyle:
    """The style of a checked request's previews."""
    return PreviewStyle(
        size=final_size(asked, able),
        image_format=asked.output_format,
        quality=asked.output_quality,
        label=label_position(asked, able, settings),
        producer=settings.content_producer,
        name=name,
    )


def partial_event(preview: Preview, style: PreviewStyle) -> dict[str, Any]:
    """OpenAI's event of one preview; `index` says of which picture it is. Slow: use a thread."""
    image = _encoded(preview, style)
    return {
        "type": PARTIAL_IMAGE,
        "created_at": int(time.time()),
        "partial_image_index": preview.number,
        "index": preview.picture,
        "b64_json": image.base64(),
        "size": f"{image.width}x{image.height}",
        "output_format": style.image_format,
        "quality": "auto",
        "background": "opaque",
    }


def _encoded(preview: Preview, style: PreviewStyle) -> EncodedImage:
    height, width = style.size
    smooth = Image.fromarray(preview.pixels).resize((width, height), Image.Resampling.BICUBIC)
    number = f"{style.name}-{preview.picture}-partial-{preview.number}"
    # No parameters: they would promise pixels that nobody can draw again.
    text = {"AIGC": generation_text({}, style.producer, number)["AIGC"]}
    return encode_image(np.asarray(smooth), style.image_format, style.quality, text, style.label)
