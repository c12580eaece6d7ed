"""The data set in one file, for a machine without registries.

    python -m recipes.emoji_zh.pack make   --data .work/emoji_zh --file emoji_zh.zip
    python -m recipes.emoji_zh.pack unpack --data .work/emoji_zh --file emoji_zh.zip

The small pictures travel, as lossless WebP, so that both machines train on the same bits. The large
ones, which only an upscaler learns from, stay here.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from rapid_diffusion.files import replacing
from recipes.emoji_zh.build import MISSING, SMALL

#: The arrays that travel picture by picture.
PICTURES = (f"pictures_{SMALL}", f"{MISSING}/pictures_{SMALL}")


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
    others = [path for path in sorted(data.glob("*")) if path.suffix in (".jsonl", ".json")]
    others += [path for path in sorted((data / "graph").rglob("*")) if path.is_file()]
    others += sorted((data / MISSING).glob("*.jsonl"))
    with replacing(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in others:
            archive.write(path, path.relative_to(data), zipfile.ZIP_DEFLATED)
        for name in PICTURES:
            pictures = np.load(data / f"{name}.npy", mmap_mode="r")
            for index, picture in enumerate(tqdm(pictures, desc=name, unit="picture")):
                encoded = io.BytesIO()
                Image.fromarray(picture).save(encoded, "WEBP", lossless=True, quality=100, method=4)
                archive.writestr(f"{name}/{index:05d}.webp", encoded.getvalue())


def unpack(file: Path, data: Path) -> None:
    """Make the data folder that `make` packed, which lacks the large pictures."""
    data.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        archive.extractall(data, [name for name in names if not name.endswith(".webp")])
        for folder in PICTURES:
            drawn = sorted(name for name in names if name.startswith(f"{folder}/"))
            if not drawn:
                raise SystemExit(f"{file}: no {folder}/*.webp in it; make the pack anew")
            pictures = [
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                for name in tqdm(drawn, desc=folder, unit="picture")
            ]
            with replacing(data / f"{folder}.npy") as temporary, temporary.open("wb") as array:
                np.save(array, np.stack(pictures))


if __name__ == "__main__":
    main()
