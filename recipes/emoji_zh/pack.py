"""The data set in one file, for a machine without registries.

    python -m recipes.emoji_zh.pack make   --data .work/emoji_zh --file emoji_zh.zip
    python -m recipes.emoji_zh.pack unpack --data .work/emoji_zh --file emoji_zh.zip

Pictures travel as lossless WebP of 256 px; the small ones are made from them as the build makes
them, so that both machines train on the same bits.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from rapid_diffusion.files import replacing
from recipes.emoji_zh.build import LARGE, MISSING, SMALL, shrink

PICTURES = "pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("make", "unpack"))
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--file", type=Path, default=Path(".work/emoji_zh.zip"))
    options = parser.parse_args()
    if options.action == "make":
        make(options.data, options.file)
        print(f"{options.file}: {options.file.stat().st_size / 2**20:.1f} MiB")
    else:
        unpack(options.file, options.data)


def make(data: Path, file: Path) -> None:
    """Write `file` from a built data folder; whole or not at all."""
    pictures = np.load(data / f"pictures_{LARGE}.npy", mmap_mode="r")
    others = [path for path in sorted(data.glob("*")) if path.suffix in (".jsonl", ".json")]
    others += [path for path in data.glob("realesr-*") if path.is_file()]
    folders = (data / name for name in ("graph", MISSING))
    others += [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    with replacing(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in others:
            archive.write(path, path.relative_to(data), zipfile.ZIP_DEFLATED)
        for index, picture in enumerate(tqdm(pictures, desc="packing", unit="picture")):
            encoded = io.BytesIO()
            Image.fromarray(picture).save(encoded, "WEBP", lossless=True, quality=100, method=4)
            archive.writestr(f"{PICTURES}/{index:05d}.webp", encoded.getvalue())


def unpack(file: Path, data: Path) -> None:
    """Make the data folder that `make` packed."""
    data.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        drawn = sorted(name for name in names if name.startswith(f"{PICTURES}/"))
        archive.extractall(data, [name for name in names if name not in set(drawn)])
        arrays = {
            size: np.lib.format.open_memmap(
                data / f".pictures_{size}.npy", "w+", np.uint8, (len(drawn), size, size, 3)
            )
            for size in (SMALL, LARGE)
        }
        for index, name in enumerate(tqdm(drawn, desc="unpacking", unit="picture")):
            large = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            arrays[LARGE][index] = np.asarray(large)
            arrays[SMALL][index] = np.asarray(shrink(large))
    for size, array in arrays.items():
        array.flush()
        (data / f".pictures_{size}.npy").rename(data / f"pictures_{size}.npy")


if __name__ == "__main__":
    main()
