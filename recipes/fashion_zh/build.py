"""Fashion-MNIST as a data set of one's own: `python -m recipes.fashion_zh.build --out FOLDER`.

Writes what a user would have: PNG files, `metadata.jsonl` (Chinese sentences) and `facts.jsonl`
(the graph). The pictures come from the Debian package `dataset-fashion-mnist` (MIT, Zalando SE).
"""

import argparse
import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.fashion_zh.garments import GARMENTS, Garment, facts

PACKAGE, PLACE = "dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")
SIDE, CAPTIONS = 32, 5
TEMPLATES = ("{n}", "{c}{n}", "{c}{n}", "画{c}{n}", "{n}的照片", "{c}{n}，白色背景")
Pixels, Row = NDArray[np.uint8], dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the folder, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".work/fashion_zh/source"))
    parser.add_argument("--idx", type=Path, default=PLACE, help="folder of the four .gz files")
    parser.add_argument("--train", type=int, default=1000, help="pictures of each garment")
    parser.add_argument("--held-out", type=int, default=50, help="of each, never trained on")
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise SystemExit(f"{given.out} exists; remove it, or give another folder with --out")
    partial = given.out.with_name(f".{given.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "pictures").mkdir(parents=True)
    rows = write_pictures(partial, given.idx, "train", "train", given.train)
    rows += write_pictures(partial, given.idx, "t10k", "held_out", given.held_out)
    write_lines(partial / "metadata.jsonl", rows)
    write_lines(partial / "facts.jsonl", facts())
    partial.rename(given.out)
    print(f"{len(rows)} pictures of {len(GARMENTS)} garments in {given.out}")


def read_idx(path: Path) -> Pixels:
    """The array of an IDX file (a magic number, the sizes, then the bytes)."""
    if not path.is_file():
        raise SystemExit(
            f"{path}: no such file; run `apt-get install {PACKAGE}`, or name the folder of"
            " Fashion-MNIST's .gz files with --idx"
        )
    try:
        content = gzip.decompress(path.read_bytes())
        start = 4 + 4 * content[3]
        shape = tuple(int.from_bytes(content[at : at + 4]) for at in range(4, start, 4))
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise SystemExit(f"{path}: is no whole IDX file ({error})") from error


def write_pictures(folder: Path, source: Path, part: str, split: str, most: int) -> list[Row]:
    """The first `most` pictures of each garment as PNG files; their rows."""
    pictures = read_idx(source / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"{part}-labels-idx1-ubyte.gz")
    rows = []
    for label, garment in enumerate(GARMENTS):
        for number, bright in enumerate(pictures[labels == label][:most]):
            name = f"pictures/{split}-{garment.code}-{number:04d}.png"
            # 28 pixels, white on black there; as in a catalogue, and a multiple of 4, here.
            border = (SIDE - len(bright)) // 2
            Image.fromarray(np.pad(255 - bright, border, constant_values=255)).save(folder / name)
            rows.append({"file_name": name, "split": split, **describe(garment, bright, name)})
    return rows


def describe(garment: Garment, bright: Pixels, name: str) -> Row:
    """What a row says: only what the label and the pixels (28, 28) show."""
    tone, detail = look(garment, bright)
    captions = [phrase(tone, detail, garment.name)]
    chance = random.Random(name)
    while len(captions) < CAPTIONS:
        word = chance.choice(garment.aliases) if chance.random() < 0.3 else garment.name
        said = phrase(*(part if chance.random() < 0.7 else "" for part in (tone, detail)), word)
        captions.append(chance.choice(TEMPLATES).format(c=garment.counted, n=said))
    return {
        "captions": captions,
        "entity": garment.name,
        "name": garment.name,
        "code": garment.code,
        "subgroup": garment.category,
        "held_out_aliases": garment.hidden,
    }


def phrase(tone: str, detail: str, name: str) -> str:
    """`深色的短袖衬衫`."""
    return f"{tone}的{detail}{name}" if tone else f"{detail}{name}"


def look(garment: Garment, bright: Pixels) -> tuple[str, str]:
    """深色 or 浅色, and a detail; nothing where the pixels do not say it clearly."""
    there = bright > 20
    level = 255 - bright[there].mean() if there.any() else 0
    tone = "深色" if level < 75 else "浅色" if level > 125 else ""
    if garment.code == "sandal":
        height = int(there.any(1).sum())
        return tone, "高跟" if height >= 20 else "平底" if height <= 14 else ""
    if garment.code == "shirt":
        ratio = width(there[17:24]) / max(1.0, width(there[5:11]))
        return tone, "长袖" if ratio > 1 else "短袖" if ratio < 0.85 else ""
    return tone, pattern(bright, there) if garment.category in ("上装", "裙装") else ""


def width(rows: NDArray[np.bool_]) -> float:
    """The median distance between the outermost pixels of some rows."""
    return float(np.median([np.ptp(np.flatnonzero(row)) + 1 if row.any() else 0 for row in rows]))


def pattern(bright: Pixels, there: NDArray[np.bool_]) -> str:
    """印花 or 纯色, by how much pixels differ from their neighbours inside the garment."""
    level = bright.astype(int)
    near = level[2:, 1:-1] + level[:-2, 1:-1] + level[1:-1, 2:] + level[1:-1, :-2]
    inside = np.lib.stride_tricks.sliding_window_view(np.pad(there, 1), (5, 5)).all((2, 3))
    if inside.sum() < 100:
        return ""
    change = np.abs(near - 4 * level[1:-1, 1:-1])[inside].mean()
    return "印花" if change > 65 else "纯色" if change < 25 else ""


def write_lines(path: Path, rows: list[Row]) -> None:
    """One JSON object a line."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
