"""A thousand rows, twenty of them broken in twenty ways, and the pieces they are made of."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 16


def picture(number: int, kind: str = "PNG", side: int = SIDE) -> bytes:
    """A file of random pixels."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    return encode(Image.fromarray(pixels), kind)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 60,000 pixels wide and high."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def floats() -> bytes:
    return encode(Image.fromarray(np.ones((SIDE, SIDE), np.float32)), "TIFF")


#: Name of the damage -> what lies in place of the picture's file.
BROKEN_FILES = {
    "truncated-jpeg": picture(1, "JPEG", 64)[:700],
    "truncated-png": picture(2, side=64)[:-4000],
    "zero-bytes": b"",
    "html": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "noise": bytes(range(256)) * 4,
    "one-pixel": picture(3, side=1),
    "bomb": bomb(),
    "floats": floats(),
    "no-frames": b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + b"\x00\x00\x00;",
}
#: Name of the damage -> what becomes of the row in `metadata.jsonl`.
BROKEN_LINES = {
    "missing-file": lambda row: row | {"file_name": "nowhere.png"},
    "traversal": lambda row: row | {"file_name": "../0000.png"},
    "broken-json": lambda row: b'{"file_name": "0000.png", "text": ',
    "not-utf-8": lambda row: json.dumps(row, ensure_ascii=False).encode("gb18030"),
    "duplicate": lambda row: row | {"file_name": "0000.png"},
    "no-name": lambda row: {"text": row["text"]},
    "no-caption": lambda row: {"file_name": row["file_name"]},
    "blank-caption": lambda row: row | {"text": " \u3000\t"},
    "number-caption": lambda row: row | {"text": 17},
    "half-caption": lambda row: row | {"text": "\ud83d"},
    "list": lambda row: [row],
}


@pytest.fixture(scope="session")
def damaged_folder(tmp_path_factory) -> Path:
    """ImageFolder of 1,000 rows; every 50th has its own damage. Do not write into it."""
    folder = tmp_path_factory.mktemp("damaged")
    pictures = [picture(number) for number in range(50)]
    broken = iter([*BROKEN_FILES.items(), *BROKEN_LINES.items()])
    lines = []
    for number in range(1000):
        row = {"file_name": f"{number:04d}.png", "text": f"第{number}个老虎", "number": number}
        content, line = pictures[number % 50], json.dumps(row, ensure_ascii=False)
        if number % 50 == 49:
            name, damage = next(broken)
            row["damage"] = name
            made = row if isinstance(damage, bytes) else damage(row)
            content = damage if isinstance(damage, bytes) else None
            line = json.dumps(made, ensure_ascii=True) if not isinstance(made, bytes) else made
        if content is not None:
            (folder / row["file_name"]).write_bytes(content)
        lines.append(line if isinstance(line, bytes) else line.encode())
    assert next(broken, None) is None
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder
