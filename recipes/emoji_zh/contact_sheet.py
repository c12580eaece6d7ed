"""Draw 100 prompts and 40 sentences, none picked: `python -m recipes.emoji_zh.contact_sheet`.

The prompts, seeds 0 to 99, are the plain captions of the first 100 concepts in the order of their
digests, each in the style whose digest comes first, whether training saw that pair or not. The
sentences (`sentences.txt`), seeds 0 to 39, are such as somebody might type who knows no captions.
Writes two sheets and the tables of what is on them.
"""

import argparse
import hashlib
from pathlib import Path

from PIL import Image

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.images.saving import save_image
from rapid_diffusion.training.data import read_rows

COUNT, COLUMNS, TILE, GAP = 100, 10, 128, 4
SENTENCES = Path(__file__).with_name("sentences.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = first_rows(read_rows(options.data / "metadata.jsonl"))
    prompts = [row["captions"][0] for row in chosen]
    notes = ["seen" if row["split"] == "train" else "held out" for row in chosen]
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    lines = ["# The contact sheets", "", __doc__.strip()]
    lines += draw(pipeline, prompts, notes, options.out / "contact_sheet.webp")
    lines += draw(pipeline, sentences, None, options.out / "sentences.webp")
    (options.out / "contact_sheet.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(
    pipeline: RapidDiffusionPipeline, prompts: list[str], notes: list[str] | None, path: Path
) -> list[str]:
    """Write the sheet of `prompts`; the lines of its table, without notes with their entities."""
    wanted = [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(prompts)]
    results = list(pipeline.render(wanted))
    save_image(path, sheet([result.images[0] for result in results]))
    told = "entities" if notes is None else "training"
    notes = notes or [", ".join(link.key for link in result.links[0]) for result in results]
    lines = ["", f"## {path.name}", "", f"| place | prompt | seed | {told} |", "|---|---|---|---|"]
    return lines + [
        f"| row {seed // COLUMNS + 1}, column {seed % COLUMNS + 1} | {prompt} | {seed} | {note} |"
        for seed, (prompt, note) in enumerate(zip(prompts, notes, strict=True))
    ]


def first_rows(rows: list[dict]) -> list[dict]:
    """One row of each of the 100 concepts."""
    best: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: digest(row["code"] + row["style"])):
        best.setdefault(row["code"], row)
    return [best[code] for code in sorted(best, key=digest)[:COUNT]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sheet(images: list[Image.Image]) -> Image.Image:
    """Tiles of 128 pixels, ten in a row."""
    step = TILE + GAP
    whole = Image.new("RGB", (COLUMNS * step, -(-len(images) // COLUMNS) * step), "white")
    for place, image in enumerate(images):
        small = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
        whole.paste(small, (place % COLUMNS * step + 2, place // COLUMNS * step + 2))
    return whole


if __name__ == "__main__":
    main()
