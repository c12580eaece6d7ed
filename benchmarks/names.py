"""What people call things, drawn with the graph and without it: `python benchmarks/names.py`.

The names (`alias<TAB>name` a line) are in the graph, no caption has them and no training saw them;
the judge looks for the thing that is meant among real pictures. Pairs of equal seeds.
"""

import argparse
from pathlib import Path

from recall import Wanted, drawn, write_report

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.report import Prompt, Recognition

SENTENCES = ("一个{}", "一只可爱的{}")


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh-4")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/names.json"))
    parser.add_argument("--names", type=Path, default=Path("recipes/emoji_zh/aliases.tsv"))
    options = parser.parse_args()
    recognition = Recognition(options.data)
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    wanted = prompts(recognition, options.names)
    pooled = {
        name: drawn(pipeline, recognition, wanted, knowledge=on)
        for name, on in (("model", True), ("against", False))
    }
    what = "model: with the graph; against: without"
    write_report(options.out, pipeline.name, recognition, wanted, pooled, what=what)


def prompts(recognition: Recognition, path: Path) -> Wanted:
    """Each everyday name of a drawn thing, in every sentence."""
    rows = zip(recognition.rows, recognition.gallery.concepts, strict=True)
    concepts = {row["name"]: concept for row, concept in rows}
    pairs = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    names = [(alias, concepts[name]) for alias, name in pairs if name in concepts]
    return [
        (words, Prompt(words.format(alias), concept, "", 0), seed)
        for words in SENTENCES
        for seed, (alias, concept) in enumerate(names)
    ]


if __name__ == "__main__":
    main()
