"""What becomes of sentences as people type them: `python benchmarks/sentences.py --data DIR`.

The judge looks at pictures of 100 animals and foods, each asked for in the words of somebody who
knows no captions, drawn by two models in the model's default style; without `--against` by one,
with that style and without it. Pairs of equal seeds.
"""

import argparse
from pathlib import Path
from typing import Any

from recall import Wanted, drawn, write_report

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.report import Prompt, Recognition

SENTENCES = (
    "{}",
    "我想要一个{}",
    "一只可爱的{}",
    "给我画一张{}的图片",
    "一只正在睡觉的{}",
    # In words that `recipes.emoji_zh.everyday` has not.
    "懒洋洋的{}趴着打盹",
    "打伞的{}",
    "昨天遇见的{}真有意思",
    "老板，上一盒{}",
)


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh-4")
    parser.add_argument("--against", help="another model; without, the same untold")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/sentences.json"))
    parser.add_argument("--prompts", type=int, default=100, help="of each sentence")
    options = parser.parse_args()
    recognition = Recognition(options.data)
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    wanted = sentences(recognition, options.prompts)
    style = pipeline.styles[0]
    pooled = {"model": drawn(pipeline, recognition, wanted, style=style)}
    other, of_other = pipeline, ""
    if options.against:
        other, of_other = RapidDiffusionPipeline.from_pretrained(options.against), style
    pooled["against"] = drawn(other, recognition, wanted, style=of_other)
    told = {"model": style, "against": of_other}
    write_report(
        options.out,
        pipeline.name,
        recognition,
        wanted,
        pooled,
        told_where_no_style_is_named=told,
    )


def sentences(recognition: Recognition, count: int) -> Wanted:
    """The name of each judged concept in every sentence; no style, so that all pictures count."""
    rows: dict[str, dict[str, Any]] = {}
    for row, concept in zip(recognition.rows, recognition.gallery.concepts, strict=True):
        rows.setdefault(concept, dict(row))
    return [
        (words, Prompt(words.format(rows[concept]["name"]), concept, "", 0), seed)
        for words in SENTENCES
        for seed, concept in enumerate(recognition.among[:count])
    ]


if __name__ == "__main__":
    main()
