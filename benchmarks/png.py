"""Our PNG encoder against Pillow's level 1: `python benchmarks/png.py`.

Three kinds of pictures: photograph-like ones (1/f noise in three channels, under discs that cover
each other with edges of their own, and a sensor's noise), real emoji enlarged with Lanczos, and the
drawings of a model if it is asked for (`--model emoji-zh`). Processor time, the best of several
turns taken one after the other in one process; every file is decoded and compared first.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from first_picture import machine
from PIL import Image

from rapid_diffusion.images.png import Pixels, encode_png

BARS = {512: 10.0, 2048: 7.0}
DISCS = 60
PROMPTS = ("三维立体风格的老虎", "扁平风格的红苹果", "卡通风格的猫")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=Path, default=Path(".work/emoji_zh/pictures_512.npy"))
    parser.add_argument("--model", help="draw with this model as well")
    parser.add_argument("--count", type=int, default=8, help="pictures of a kind")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/png.json"))
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "meaning": "Pillow's processor time over ours; our bytes over Pillow's, all together",
        "bars": {str(side): bar for side, bar in BARS.items()},
    }
    for side in BARS:
        for kind, pictures in kinds(options, side):
            report[f"{kind}, {side} px"] = measured(list(pictures), options.turns)
            print(kind, side, report[f"{kind}, {side} px"], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def kinds(options: argparse.Namespace, side: int) -> Iterator[tuple[str, Iterator[Pixels]]]:
    """The pictures of each kind at one size."""
    count = options.count if side <= 512 else max(2, options.count // 3)
    yield "photograph-like", (photograph(side, seed) for seed in range(count))
    if options.emoji.is_file():
        emoji = np.load(options.emoji, mmap_mode="r")
        chosen = np.random.default_rng(0).choice(len(emoji), count, replace=False)
        yield "emoji", (enlarged(emoji[place], side) for place in sorted(chosen))
    if options.model:
        from rapid_diffusion import RapidDiffusionPipeline

        pipe = RapidDiffusionPipeline.from_pretrained(options.model)
        drawn = (pipe(text, seed=1, output_type="numpy").images[0] for text in PROMPTS)
        yield "drawings", (enlarged(picture, side) for picture in drawn)


def photograph(side: int, seed: int) -> Pixels:
    """(side, side, 3): the spectrum of natural pictures, with edges."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1.0
    noise = np.fft.rfft2(random.standard_normal((4, side, side))) / frequency
    planes = np.fft.irfft2(noise, s=(side, side))
    planes /= planes.std((1, 2), keepdims=True)
    shades = np.moveaxis(planes[3] + 0.25 * planes[:3], 0, -1)
    rows, columns = np.ogrid[:side, :side]
    ground = np.zeros((side, side, 3))
    for _ in range(DISCS):
        radius = side * 0.02 / max(0.05, random.random()) ** 0.6
        row, column = random.random(2) * side
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        ground[inside] = random.normal(0, 0.75, 3) + random.normal(0, 1.2)
    levels = 128 + 28 * (shades + ground) + random.normal(0, 1.5, shades.shape)
    return np.clip(levels, 0, 255).round().astype(np.uint8)


def enlarged(picture: Pixels, side: int) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def with_pillow(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def measured(pictures: list[Pixels], turns: int) -> dict[str, Any]:
    """Ratios over all pictures; raises `AssertionError` where one does not come back."""
    ratios, ours, theirs, milliseconds = [], [], [], []
    for pixels in pictures:
        content = encode_png(pixels)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
        fast = slow = float("inf")
        for _ in range(turns):
            fast = min(fast, seconds_of(encode_png, pixels))
            slow = min(slow, seconds_of(with_pillow, pixels))
        ratios.append(slow / fast)
        milliseconds.append(1000 * fast)
        ours.append(len(content))
        theirs.append(len(with_pillow(pixels)))
    return {
        "pictures": len(pictures),
        "times_faster": round(statistics.geometric_mean(ratios), 1),
        "times_faster_least": round(min(ratios), 1),
        "milliseconds": round(statistics.median(milliseconds), 2),
        "size": round(sum(ours) / sum(theirs), 3),
        "size_most": round(max(a / b for a, b in zip(ours, theirs, strict=True)), 3),
    }


def seconds_of(encode: Callable[[Pixels], bytes], pixels: Pixels) -> float:
    began = time.process_time()
    encode(pixels)
    return time.process_time() - began


if __name__ == "__main__":
    main()
