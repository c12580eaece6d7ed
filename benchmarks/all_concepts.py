"""A model of every concept but the flags: `python benchmarks/all_concepts.py MODEL --data FOLDER`.

FOLDER is what `python -m recipes.emoji_zh.build --groups ...` made of eight groups. Of each concept
that two styles or more draw, the plain caption of one training picture is drawn with one seed; the
judge looks for the concept among all of them, in real pictures of other styles. Beside each figure
stands what the real pictures of the same captions score, and `kept` is the share of it.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from recall import Wanted, drawn, queries_of, write_json
from torch.nn import functional

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.report import Recognition
from rapid_diffusion.evaluation.retrieval import ranks, recall


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/results/all-concepts.json"))
    options = parser.parse_args()
    recognition = Recognition(options.data, most=sys.maxsize)
    among = drawn_twice(recognition)
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    wanted = [("trained_pairs", prompt, 0) for prompt in recognition.one_prompt_each(among)]
    pooled = drawn(pipeline, recognition, wanted, num_inference_steps=options.steps)
    report = {
        "command": f"python {' '.join(sys.argv)}",
        "model": {"name": pipeline.name, "digest": pipeline.digest},
        "parameters": pipeline.default_parameters | {"num_inference_steps": options.steps},
        "judge": "EfficientNet-Lite0, ImageNet; gallery: all real pictures in other styles",
        "concepts": len(among),
        **judged(recognition, among, wanted, functional.normalize(pooled, dim=-1)),
    }
    write_json(options.out, report)


def drawn_twice(recognition: Recognition) -> list[str]:
    """The concepts that two styles or more draw: the judge finds them in another one."""
    styles = defaultdict(set)
    for concept, style in zip(
        recognition.gallery.concepts, recognition.gallery.styles, strict=True
    ):
        styles[concept].add(style)
    return sorted(concept for concept, found in styles.items() if len(found) > 1)


def judged(
    recognition: Recognition, among: list[str], wanted: Wanted, features: Any
) -> dict[str, Any]:
    """Recalls of what was drawn and of the real pictures, of all concepts and by group."""
    rows = [prompt.row for _, prompt, _ in wanted]
    sides = {"drawn": features, "real": recognition.gallery.features[rows]}
    queries = {side: queries_of(wanted, seen) for side, seen in sides.items()}
    places = {side: ranks(asked, recognition.gallery, among) for side, asked in queries.items()}
    groups = [recognition.rows[row]["group"] for row in rows]
    tables = {}
    for group in ("all", *sorted(set(groups))):
        chosen = [i for i, name in enumerate(groups) if group in ("all", name)]
        found = {
            side: recall([queries[side][i] for i in chosen], [places[side][i] for i in chosen])
            for side in sides
        }
        tables[group] = {side: value.as_dict() for side, value in found.items()} | {
            "kept_at_1": round(found["drawn"].at_1 / found["real"].at_1, 4),
            "kept_at_5": round(found["drawn"].at_5 / found["real"].at_5, 4),
        }
    return tables


if __name__ == "__main__":
    main()
