"""`make demo`: a sheet of pictures from Chinese sentences, drawn by the embedded model.

    python examples/demo.py --out out [--model emoji-zh] [--seed 0]

Writes one PNG a sentence, `sheet.png` with numbered tiles, and the sentences beside the numbers in
`index.html` and `prompts.txt` (a machine need not have a Chinese font; a browser brings one along).
"""

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from rapid_diffusion import GenerationResult, RapidDiffusionPipeline
from rapid_diffusion.errors import OutputError
from rapid_diffusion.files import write_bytes
from rapid_diffusion.images.saving import save_image

PROMPTS = (
    "三维立体风格的老虎",
    "扁平风格的红苹果",
    "卡通风格的熊猫",
    "一朵向日葵",
    "一只可爱的企鹅",
    "一块西瓜",
    "三维立体风格的草莓",
    "扁平风格的狐狸",
)
COLUMNS = 4
MARGIN = 20  # pixels around a tile; its number stands in the lower margin


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, save, and say where; raises what the library raises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    pipe = RapidDiffusionPipeline.from_pretrained(options.model)
    print(f"drawing {len(PROMPTS)} pictures with {pipe.name} on {pipe.device} …", file=sys.stderr)
    result = pipe(list(PROMPTS), seed=options.seed)
    write_sheet(result, make_folder(options.out))
    print(f"{len(PROMPTS)} pictures: {options.out / 'sheet.png'}, each with its sentence in")
    print((options.out / "index.html").resolve())


def make_folder(folder: Path) -> Path:
    """`folder`, made if need be; raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder


def write_sheet(result: GenerationResult, folder: Path) -> None:
    """Write the pictures, the sheet, the page and the list of sentences into `folder`."""
    names = [f"{number:02d}.png" for number in range(1, len(PROMPTS) + 1)]
    for name, image in zip(names, result.images, strict=True):
        save_image(folder / name, image)
    save_image(folder / "sheet.png", tile(result.images))
    write_bytes(folder / "index.html", page(names, result.seeds).encode())
    lines = [f"{name}\t{prompt}\n" for name, prompt in zip(names, PROMPTS, strict=True)]
    write_bytes(folder / "prompts.txt", "".join(lines).encode())


def tile(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size, numbered from 1, on a white sheet of `COLUMNS` columns."""
    width, height = images[0].size
    rows = -(-len(images) // COLUMNS)
    step_x, step_y = width + 2 * MARGIN, height + 2 * MARGIN
    sheet = Image.new("RGB", (COLUMNS * step_x, rows * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        left, top = i % COLUMNS * step_x + MARGIN, i // COLUMNS * step_y + MARGIN
        sheet.paste(image, (left, top))
        below = (left + width // 2, top + height)
        draw.text(below, str(i + 1), fill="black", anchor="ma", font_size=16)
    return sheet


def page(names: Sequence[str], seeds: Sequence[int]) -> str:
    """An HTML page with every picture above its sentence."""
    figures = "\n".join(
        f'<figure><img src="{name}" alt=""><figcaption>{number}. {html.escape(prompt)}'
        f"<br><small>seed {seed}</small></figcaption></figure>"
        for number, (name, prompt, seed) in enumerate(zip(names, PROMPTS, seeds, strict=True), 1)
    )
    style = "body{font-family:sans-serif;text-align:center}figure{display:inline-block;margin:1em}"
    return (
        '<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>Rapid Diffusion</title>\n'
        f"<style>{style}img{{width:256px}}</style>\n{figures}\n</html>\n"
    )


if __name__ == "__main__":
    main()
