"""Where each style keeps its pictures, and how one becomes pixels on white."""

import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.emoji_zh.concepts import Concept, normalise_code
from recipes.emoji_zh.packages import read_json
from recipes.emoji_zh.words import FXEMOJI_CODES, FXEMOJI_MISLEADING


@dataclass(frozen=True)
class Style:
    """A family of drawings: the words a user says for it, and whose artwork it is."""

    words: str
    synonyms: tuple[str, ...]
    license: str


STYLES = {
    "twemoji": Style("扁平贴纸风格", ("扁平贴纸", "贴纸"), "CC-BY-4.0 (Twemoji)"),
    "noto": Style("卡通风格", ("卡通", "卡通画"), "Apache-2.0 (Google Noto Emoji)"),
    "fluent-flat": Style("简约扁平风格", ("简约扁平", "简约"), "MIT (Microsoft Fluent Emoji)"),
    "fluent-color": Style("渐变彩色风格", ("渐变彩色", "渐变"), "MIT (Microsoft Fluent Emoji)"),
    "fluent-3d": Style("三维立体风格", ("三维立体", "三维"), "MIT (Microsoft Fluent Emoji)"),
    "emojione": Style("圆润图标风格", ("圆润图标", "圆润"), "CC-BY-4.0 (EmojiOne 2)"),
    "fxemoji": Style("复古图标风格", ("复古图标", "复古"), "CC-BY-4.0 (Mozilla FxEmojis)"),
}


def find_pictures(
    packages: Path, style: str, concepts: dict[str, Concept]
) -> dict[str, str | Path]:
    """Code -> SVG text or path of a bitmap, for every concept this style draws."""
    if style == "twemoji":
        files = sorted((packages / "twemoji").glob("*.svg"))
        found: Iterator[tuple[str, str | Path]] = (
            (normalise_code(file.stem), file.read_text(encoding="utf-8")) for file in files
        )
    elif style == "fluent-3d":
        found = _fluent_3d(packages)
    else:
        found = _iconify(packages, style, concepts)
    pictures: dict[str, str | Path] = {}
    for code, source in found:
        if code in concepts:
            pictures.setdefault(code, source)
    return pictures


def _fluent_3d(packages: Path) -> Iterator[tuple[str, Path]]:
    """Only what Microsoft's own MIT set also has: the others are of unstated origin."""
    published = {normalise_code(code) for code in read_json(packages / "fluent-flat/chars.json")}
    for file in sorted((packages / "fluent-3d/assets").glob("*.webp")):
        if normalise_code(file.stem) in published:
            yield normalise_code(file.stem), file


def _iconify(packages: Path, style: str, concepts: dict[str, Concept]) -> Iterator[tuple[str, str]]:
    icons = read_json(packages / style / "icons.json")
    for code, name in sorted(_icon_names(packages, style, icons, concepts).items()):
        icon = icons["icons"].get(name)
        if icon is None:
            alias = icons.get("aliases", {}).get(name, {"rotate": 1})
            if set(alias) - {"parent", "hidden"}:
                continue
            icon = icons["icons"].get(alias["parent"])
        if icon is not None:
            yield code, _svg(icon, icons)


def _svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
    )


def _icon_names(
    packages: Path, style: str, icons: dict[str, Any], concepts: dict[str, Concept]
) -> dict[str, str]:
    """Code -> icon name. Sets without a table of code points are matched by English names."""
    folder = "fluent-flat" if style == "fluent-color" else style
    table = packages / folder / "chars.json"
    names: dict[str, str] = {}
    if table.exists() and (characters := read_json(table)):
        for code, name in characters.items():
            names.setdefault(normalise_code(code), name)
        return names
    index = _name_index(packages, concepts)
    aliases = defaultdict(list)
    for alias, value in icons.get("aliases", {}).items():
        aliases[value["parent"]].append(alias)
    for name in icons["icons"]:
        if style == "fxemoji" and name in FXEMOJI_CODES:
            names[FXEMOJI_CODES[name]] = name
        elif not (style == "fxemoji" and name in FXEMOJI_MISLEADING):
            shorter = re.sub(r"-(face|symbol|button)$", "", name)
            candidates = [name, *aliases[name], name.replace("flag-for-", "flag-"), shorter]
            code = next((index[k] for k in map(_squash, candidates) if k in index), None)
            if code:
                names.setdefault(code, name)
    return names


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _name_index(packages: Path, concepts: dict[str, Concept]) -> dict[str, str]:
    """English names as icon sets write them -> code, from several tables."""
    index: dict[str, str] = {}
    for package in ("fluent-flat", "noto"):
        for code, name in read_json(packages / package / "chars.json").items():
            index.setdefault(_squash(name), normalise_code(code))
    for code, concept in concepts.items():
        index.setdefault(_squash(concept.english), code)
        if "-" not in code:
            index.setdefault(_squash(unicodedata.name(chr(int(code, 16)), code)), code)
    for file in ("github", "joypixels", "iamcal", "cldr"):
        path = packages / f"emojibase/en/shortcodes/{file}.json"
        for code, names in (read_json(path) if path.exists() else {}).items():
            for name in names if isinstance(names, list) else [names]:
                index.setdefault(_squash(name), normalise_code(code))
    return index


def rasterise(source: str | Path, size: int, margin: float = 4 / 128) -> Image.Image:
    """The picture as RGBA on a transparent square of `size`, `margin` of it free on each side."""
    import resvg_py

    inner = size - 2 * round(size * margin)
    if isinstance(source, Path):
        image = Image.open(source).convert("RGBA")
    else:
        png = resvg_py.svg_to_bytes(
            svg_string=source, width=inner, height=inner, skip_system_fonts=True
        )
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    # "RGBa" holds premultiplied colours: without it, invisible pixels would bleed into the edges
    scale = inner / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.convert("RGBa").resize(shape, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    square.paste(image, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return square


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA picture laid on white, as RGB."""
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


#: Hue in degrees up to which a saturated pixel has this colour.
_HUES = ((14, "红色"), (40, "橙色"), (68, "黄色"), (165, "绿色"), (195, "青色"), (255, "蓝色"))
_LATE_HUES = ((300, "紫色"), (345, "粉色"), (361, "红色"))


def main_colours(image: Image.Image, at_most: int = 3) -> list[str]:
    """Chinese names of the colours that cover 15 % or more of the drawn pixels, largest first."""
    pixels = np.asarray(image)
    drawn = pixels[pixels[..., 3] > 128]
    if len(drawn) < 20:
        return []
    hsv = np.asarray(Image.fromarray(drawn[None, :, :3]).convert("HSV"), dtype=np.float32)[0] / 255
    hue, saturation, value = hsv[:, 0] * 360, hsv[:, 1], hsv[:, 2]
    names = np.full(len(drawn), "灰色", dtype="<U3")
    grey = saturation < 0.16
    for limit, name in reversed(_HUES + _LATE_HUES):
        names[~grey & (hue < limit)] = name
    pinkish = ~grey & ((hue < 14) | (hue >= 330)) & (saturation < 0.55) & (value > 0.75)
    names[pinkish] = "粉色"
    names[~grey & (hue >= 8) & (hue < 45) & (value < 0.68)] = "棕色"
    names[~grey & (hue >= 14) & (hue < 40) & (saturation < 0.45) & (value > 0.8)] = "米色"
    names[grey & (value > 0.88)] = "白色"
    names[(value < 0.22) | (grey & (value < 0.32))] = "黑色"
    found, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts)
    return [str(found[i]) for i in order if counts[i] >= 0.15 * len(drawn)][:at_most]
