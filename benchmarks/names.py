"""What people call things, drawn with the graph and without it: `python benchmarks/names.py`.

The names are those of `recipes/emoji_zh/aliases.tsv`, which no caption has and no training saw; the
judge looks for the thing that is meant among real pictures. Pairs of equal seeds.
"""

import argparse
import json
import sys
from pathlib import Path

from recall import Wanted, drawn, recalls
from torch.nn import functional

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.report import Prompt, Recognition
from rapid_diffusion.files import write_bytes
from recipes.emoji_zh.graph import everyday_names

SENTENCES = ("一个{}", "一只可爱的{}")


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh-4")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/names.json"))
    options = parser.parse_args()
    recognition = Recognition(options.data)
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    wanted = prompts(recognition)
    features = {
        name: functional.normalize(drawn(pipeline, recognition, wanted, knowledge=on), dim=-1)
        for name, on in (("model", True), ("against", False))
    }
    report = {
        "command": f"python {' '.join(sys.argv)}",
        "model": pipeline.name,
        "judge": "EfficientNet-Lite0, ImageNet; gallery: all real pictures; 1 seed a sentence",
        "what": "model: with the graph; against: without",
        "recalls": recalls(recognition, wanted, features),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    write_bytes(options.out, text.encode())
    print(text)


def prompts(recognition: Recognition) -> Wanted:
    """Each everyday name of a drawn thing, in every sentence."""
    rows = zip(recognition.rows, recognition.gallery.concepts, strict=True)
    concepts = {row["name"]: concept for row, concept in rows}
    names = [(alias, concepts[name]) for alias, name in everyday_names() if name in concepts]
    return [
        (words, Prompt(words.format(alias), concept, "", 0), seed)
        for words in SENTENCES
        for seed, (alias, concept) in enumerate(names)
    ]


if __name__ == "__main__":
    main()
