"""What a picture says about itself: how it was drawn, and that a machine drew it.

The implicit label is the JSON of China's GB 45438-2025, as secondary sources describe it; no
compliance is claimed. Every file carries it in XMP, PNG also in the text chunk `AIGC`, JPEG and
WebP in the EXIF UserComment, in both cases beside `parameters`, the JSON of the call that drew
the picture; its `label` tells whether it shows the explicit one too (`draw_label`), and where.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images.explicit import POSITIONS, Position, draw_label, holds_label
from rapid_diffusion.images.xmp import PNG_KEY, label_packet, packet_label

__all__ = [
    "POSITIONS",
    "Position",
    "draw_label",
    "exif_with",
    "explicit_fact",
    "generation_text",
    "holds_label",
    "pillow_metadata",
    "png_text",
    "read_labels",
]

_LABELS = ("parameters", "AIGC")
_FORBIDDEN = '"\\'
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_ASCII = b"ASCII\0\0\0"
# An EXIF segment of a JPEG holds 65,533 bytes in all.
_MAX_COMMENT = 65_000


def generation_text(
    parameters: Mapping[str, Any], producer: str = "", produce_id: str = ""
) -> dict[str, str]:
    """The entries `parameters` and `AIGC` for `encode_png` or `save_image`.

    `parameters` must be what JSON can hold. `producer` is the operator's own code: without one
    the label has no `ContentProducer`. `produce_id` is the operator's number of this picture.

    Raises:
        InvalidRequestError: a code with quotes, backslashes, blanks, or beyond ASCII.
    """
    label = {"Label": "1"}
    if producer:
        label["ContentProducer"] = _code("producer", producer)
    label |= {
        "ProduceID": _code("produce_id", produce_id),
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }
    drawn = json.dumps(parameters, ensure_ascii=False, allow_nan=False)
    return {"parameters": drawn, "AIGC": json.dumps(label, separators=(",", ":"))}


def explicit_fact(position: Position | None) -> dict[str, Any]:
    """What `parameters` say of the explicit label under `label`; None is none."""
    return {"explicit": False} if position is None else {"explicit": True, "position": position}


def _code(field: str, value: str) -> str:
    if not all("!" <= mark <= "~" and mark not in _FORBIDDEN for mark in value):
        raise InvalidRequestError(
            field, f"{value!r} is not allowed; use ASCII without blanks, quotes and backslashes"
        )
    return value


def png_text(text: Mapping[str, str]) -> dict[str, str]:
    """The text chunks of a PNG: the entries of `text`, and its label in XMP."""
    packet = {PNG_KEY: label_packet(text["AIGC"])} if "AIGC" in text else {}
    return {**text, **packet}


def pillow_metadata(text: Mapping[str, str]) -> dict[str, Any]:
    """The same for a JPEG or WebP, as options of Pillow's `save`. Raises as `exif_with` says."""
    exif = exif_with(text) if text else Image.Exif()
    packet = {"xmp": label_packet(text["AIGC"]).encode()} if "AIGC" in text else {}
    return {"exif": exif, **packet}


def exif_with(text: Mapping[str, str]) -> Image.Exif:
    """EXIF data whose UserComment is one JSON object of the entries of `text`.

    Raises:
        InvalidRequestError: more text than a JPEG can carry.
    """
    comment = json.dumps({key: _parsed(value) for key, value in text.items()})
    if len(comment) > _MAX_COMMENT:
        raise InvalidRequestError(
            "text", f"{len(comment)} bytes; EXIF holds {_MAX_COMMENT}. Save a PNG, or less text"
        )
    exif = Image.Exif()
    # JSON's own escapes keep Chinese inside ASCII, so no reader has to guess an encoding.
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _ASCII + comment.encode("ascii")
    return exif


def read_labels(path: str | Path) -> dict[str, Any]:
    """What the picture at `path` says about itself: `format`, `width`, `height`, `parameters`
    and `AIGC` (None where absent, the raw text where it is not JSON), `xmp`, the label in XMP, and
    `explicit`: whether the parameters say that it shows the explicit label; None without them.

    Raises:
        InvalidRequestError: no file there, or no picture that can be read.
    """
    try:
        with Image.open(path) as picture:
            facts = {"format": picture.format, "width": picture.width, "height": picture.height}
            picture.load()  # text may follow the pixels
            found, packet = _text_of(picture), packet_label(picture)
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidRequestError("file", f"{path} is not a whole picture ({error})") from error
    except OSError as error:
        raise InvalidRequestError(
            "file", f"{path} cannot be read as a picture ({error}); check the name and the file"
        ) from error
    labels = {name: found.get(name) for name in _LABELS}
    in_xmp = None if packet is None else _parsed(packet)
    return {**facts, **labels, "xmp": in_xmp, "explicit": _shows_label(labels["parameters"])}


def _shows_label(parameters: object) -> bool | None:
    if not isinstance(parameters, dict):
        return None
    label = parameters.get("label")
    return isinstance(label, dict) and label.get("explicit") is True


def _text_of(picture: Image.Image) -> dict[str, Any]:
    if picture.format == "PNG":
        return {key: _parsed(value) for key, value in picture.info.items() if key in _LABELS}
    comment = picture.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    if not isinstance(comment, bytes) or not comment.startswith(_ASCII):
        return {}
    value = _parsed(comment.removeprefix(_ASCII).decode("ascii", "replace"))
    return value if isinstance(value, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
