"""Which upscaler for emoji-zh: quality against the 512 px truth, time and megabytes.

    python -m recipes.emoji_zh.compare_upscalers MODEL… --data DIR [--count N] [--json]

A MODEL is a folder of ours, or a Real-ESRGAN `.pth` or ncnn `.param` file; `--data` holds
`pictures_128.npy` and `pictures_512.npy`, uint8 (N, S, S, 3). Bicubic enlargement is always
compared too. Times are of single pictures on this machine's CPU.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
from PIL import Image

from rapid_diffusion.checkpoints.realesrgan import import_realesrgan
from rapid_diffusion.images.convert import Pixels, pixels_to_unit, unit_to_pixels
from rapid_diffusion.super_resolution.upscaler import Storage, Upscaler
from recipes.emoji_zh.build import LARGE, SMALL

Enlarge = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Score:
    """One upscaler: means over the pictures, all against the drawing at full size."""

    name: str
    psnr: float
    """dB over RGB; the mean of the pictures' own values."""
    white_error: float
    """Grey levels (of 255) by which places that are white in truth are darker, on average."""
    seconds: float
    """Median time of one picture."""
    megabytes: float
    """Of the weight file, 10^6 bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12, help="pictures, spread over the data")
    parser.add_argument(
        "--storage", nargs="*", choices=get_args(Storage), default=["float16", "int8"]
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for score in compare(arguments.models, arguments.data, arguments.count, arguments.storage):
        print(json.dumps(asdict(score)) if arguments.json else _line(score), flush=True)


def compare(models: list[Path], data: Path, count: int, storages: list[Storage]) -> list[Score]:
    """Scores of bicubic and of each model in each storage, on `count` pictures of `data`."""
    small, large = _pictures(data, count)
    scores = [score("bicubic", bicubic, small, large)]
    for path in models:
        upscaler = Upscaler.from_folder(path) if path.is_dir() else import_realesrgan(path)
        for storage in storages:
            stored, megabytes = _as_stored(upscaler, storage)
            name = f"{path.stem} {storage}"
            scores.append(score(name, _enlarger(stored), small, large, megabytes))
    return scores


def score(name: str, enlarge: Enlarge, small: Pixels, large: Pixels, megabytes: float = 0) -> Score:
    """Enlarge `small` (N, s, s, 3) one by one and compare with `large` (N, S, S, 3)."""
    enlarge(small[:1])
    psnrs, whites, seconds = [], [], []
    for index in range(len(small)):
        begin = time.perf_counter()
        drawn = enlarge(small[index : index + 1])
        seconds.append(time.perf_counter() - begin)
        psnrs.append(psnr(drawn, large[index : index + 1]))
        white = (large[index] == 255).all(-1)
        if white.any():
            whites.append(255 - float(drawn[0][white].mean()))
    mean_white = float(np.mean(whites)) if whites else 0.0
    return Score(name, float(np.mean(psnrs)), mean_white, median(seconds), megabytes)


def psnr(drawn: Pixels, truth: Pixels) -> float:
    """Peak signal to noise ratio of two uint8 arrays in dB; at most 100."""
    error = float(np.mean((drawn.astype(np.float64) - truth) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * float(np.log10(255**2 / error)))


def bicubic(pictures: Pixels) -> Pixels:
    """(N, S, S, 3) -> (N, LARGE, LARGE, 3) by Pillow's bicubic filter."""
    larger = (LARGE, LARGE)
    drawn = [
        Image.fromarray(picture).resize(larger, Image.Resampling.BICUBIC) for picture in pictures
    ]
    return np.stack([np.asarray(picture) for picture in drawn])


def _pictures(data: Path, count: int) -> tuple[Pixels, Pixels]:
    small = np.load(data / f"pictures_{SMALL}.npy", mmap_mode="r")
    large = np.load(data / f"pictures_{LARGE}.npy", mmap_mode="r")
    chosen = np.unique(np.linspace(0, len(small) - 1, count).astype(int))
    return np.asarray(small[chosen]), np.asarray(large[chosen])


def _as_stored(upscaler: Upscaler, storage: Storage) -> tuple[Upscaler, float]:
    with tempfile.TemporaryDirectory() as folder:
        upscaler.save(folder, storage)
        size = (Path(folder) / "model.safetensors").stat().st_size
        return Upscaler.from_folder(folder), size / 1e6


def _enlarger(upscaler: Upscaler) -> Enlarge:
    return lambda pictures: unit_to_pixels(upscaler(pixels_to_unit(pictures)))


def _line(score: Score) -> str:
    return (
        f"{score.name:36} {score.psnr:6.2f} dB   white {score.white_error:5.2f}   "
        f"{score.seconds:7.3f} s   {score.megabytes:6.2f} MB"
    )


if __name__ == "__main__":
    main()
