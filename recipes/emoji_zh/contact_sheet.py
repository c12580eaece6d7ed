"""Draw 48 prompts with seeds 0 to 47, none picked: `python -m recipes.emoji_zh.contact_sheet`.

The prompts are the plain captions of the first 48 concepts in the order of their digests, each in
the style whose digest comes first, whether training saw that pair or not. Writes a sheet and a
table of its prompts.
"""

import argparse
import hashlib
from pathlib import Path

from PIL import Image

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.images.saving import save_image
from rapid_diffusion.training.data import read_rows

COUNT, COLUMNS, TILE, GAP = 48, 8, 128, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    chosen = first_rows(read_rows(options.data / "metadata.jsonl"))
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    wanted = [{"prompt": row["captions"][0], "seed": seed} for seed, row in enumerate(chosen)]
    images = [result.images[0] for result in pipeline.render(wanted)]
    options.out.mkdir(parents=True, exist_ok=True)
    save_image(options.out / "contact_sheet.png", sheet(images))
    lines = ["# The contact sheet", "", __doc__.strip(), "", "| place | prompt | seed | training |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| row {seed // COLUMNS + 1}, column {seed % COLUMNS + 1} | {row['captions'][0]} "
        f"| {seed} | {'seen' if row['split'] == 'train' else 'held out'} |"
        for seed, row in enumerate(chosen)
    ]
    (options.out / "contact_sheet.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def first_rows(rows: list[dict]) -> list[dict]:
    """One row of each of the 48 concepts."""
    best: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: digest(row["code"] + row["style"])):
        best.setdefault(row["code"], row)
    return [best[code] for code in sorted(best, key=digest)[:COUNT]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sheet(images: list[Image.Image]) -> Image.Image:
    """Tiles of 128 pixels, eight in a row."""
    step = TILE + GAP
    whole = Image.new("RGB", (COLUMNS * step, -(-len(images) // COLUMNS) * step), "white")
    for place, image in enumerate(images):
        small = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
        whole.paste(small, (place % COLUMNS * step + 2, place // COLUMNS * step + 2))
    return whole


if __name__ == "__main__":
    main()
