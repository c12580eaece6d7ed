"""What becomes of sentences that name no style: `python benchmarks/sentences.py --data DIR`.

The judge looks at pictures of 100 animals and foods, each asked for in the words of somebody who
knows no captions, drawn with the model's default style and without it. Pairs of equal seeds.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recall import Wanted, recalls
from torch import Tensor

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.drawing import resized
from rapid_diffusion.evaluation.report import Prompt, Recognition
from rapid_diffusion.images.convert import pixels_to_unit

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "sentences.json"
SENTENCES = ("{}", "我想要一个{}", "一只可爱的{}", "给我画一张{}的图片")


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh-4")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--prompts", type=int, default=100, help="of each sentence")
    options = parser.parse_args()
    recognition = Recognition(options.data)
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    wanted = sentences(recognition, options.prompts)
    features = {"model": drawn(pipeline, recognition, wanted)}
    style = pipeline.styles[0]
    pipeline.model.card = replace(pipeline.model.card, styles="")
    features["against"] = drawn(pipeline, recognition, wanted)
    told = {
        "command": f"python {' '.join(sys.argv)}",
        "model": pipeline.name,
        "judge": "EfficientNet-Lite0, ImageNet; gallery: all real pictures; 1 seed a sentence",
        "what": f"model: {style} is told to sentences without a style; against: nothing is",
        "recalls": recalls(recognition, wanted, features),
    }
    RESULTS.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, ensure_ascii=False, indent=1))


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


@torch.inference_mode()
def drawn(pipeline: RapidDiffusionPipeline, recognition: Recognition, wanted: Wanted) -> Tensor:
    """(N, 1280) of unit length: the pictures at the size of a drawing, as the judge sees them."""
    rows = [{"prompt": prompt.text, "seed": seed} for _, prompt, seed in wanted]
    return torch.cat(list(_features(pipeline, recognition, rows)))


def _features(
    pipeline: RapidDiffusionPipeline, recognition: Recognition, rows: list[dict[str, Any]]
) -> Iterator[Tensor]:
    for result in pipeline.render(rows, output_type="numpy"):
        pictures = pixels_to_unit(np.stack(list(result.images)))
        yield recognition.judge.features(resized(pictures, pipeline.sizes[0]))


if __name__ == "__main__":
    main()
