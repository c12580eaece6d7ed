"""Pairs of concept and style without a picture: `python benchmarks/held_out.py --against OLD`.

Draws the caption of every held-out pair with two models and the same seeds. The judge looks for the
concept among real pictures of other styles. Drafts of such pairs lean on the concept's picture in
the nearest style (`recipes/emoji_zh/missing.py`), so the judge looks a second time with that very
picture out of its gallery. How near a drawing comes to the picture that was held out, and how near
to the one in the nearest style, are cosines of the judge's features.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recall import Wanted, drawn, ranks_of, write_report
from torch import Tensor
from torch.nn import functional

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.intervals import compared, rounded
from rapid_diffusion.evaluation.report import Recognition
from rapid_diffusion.evaluation.retrieval import Gallery, Query, ranks


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--against", default="emoji-zh-4")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--seeds", type=int, default=1, help="pictures a prompt")
    parser.add_argument("--out", type=Path, default=Path("docs/results/held-out.json"))
    options = parser.parse_args()
    recognition = Recognition(options.data)
    pipelines = {
        name: RapidDiffusionPipeline.from_pretrained(getattr(options, name))
        for name in ("model", "against")
    }
    run = recognition.plan(options.seeds)["held_out_pairs"]
    wanted = [("held_out_pairs", prompt, seed) for prompt, seed in run.wanted()]
    pooled = {name: drawn(pipe, recognition, wanted) for name, pipe in pipelines.items()}
    units = {name: functional.normalize(rows, dim=-1) for name, rows in pooled.items()}
    nearest = nearest_rows(options.data / "missing" / "metadata.jsonl")
    concepts = [prompt.concept for _, prompt, _ in wanted]
    strict = {
        name: ranks_without(recognition, wanted, rows, nearest) for name, rows in units.items()
    }
    real = recognition.gallery.features[[prompt.row for _, prompt, _ in wanted]]
    leant_on = recognition.gallery.features[nearest_places(recognition, wanted, nearest)]
    write_report(
        options.out,
        options.model,
        recognition,
        wanted,
        pooled,
        against={"name": options.against, "digest": pipelines["against"].digest},
        digest=pipelines["model"].digest,
        nearest_picture_out_of_the_gallery=[
            compared(f"R@{k}", strict["model"] < k, strict["against"] < k, concepts) for k in (1, 5)
        ],
        cosine_to_the_held_out_picture={
            name: rounded(cosine(rows, real)) for name, rows in units.items()
        },
        cosine_to_the_nearest_picture={
            **{name: rounded(cosine(rows, leant_on)) for name, rows in units.items()},
            "held_out_picture": rounded(cosine(real, leant_on)),
        },
        real_pictures={
            "R@1": rounded(float((ranks_of(recognition, wanted, real) < 1).mean())),
            "nearest_picture_out": rounded(
                float((ranks_without(recognition, wanted, real, nearest) < 1).mean())
            ),
        },
    )


def nearest_rows(path: Path) -> dict[tuple[str, str], str]:
    """(code, style) -> the style whose picture was laid over the rough one of that pair."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["code"], row["style"]): row["nearest"] for row in rows}


def nearest_places(
    recognition: Recognition, wanted: Wanted, nearest: dict[tuple[str, str], str]
) -> list[int]:
    """The row of each pair's picture in the nearest style."""
    gallery = recognition.gallery
    rows = {shown: i for i, shown in enumerate(zip(gallery.concepts, gallery.styles, strict=True))}
    codes = [recognition.rows[prompt.row]["code"] for _, prompt, _ in wanted]
    return [
        rows[prompt.concept, nearest[code, prompt.style]]
        for code, (_, prompt, _) in zip(codes, wanted, strict=True)
    ]


def cosine(one: Tensor, other: Tensor) -> float:
    """The mean over rows of unit length."""
    return float((one * other).sum(1).mean())


def ranks_without(
    recognition: Recognition,
    wanted: Wanted,
    features: Tensor,
    nearest: dict[tuple[str, str], str],
) -> NDArray[np.int64]:
    """Places from 0, each with the nearest picture of its pair out of the gallery."""
    gallery, places = recognition.gallery, []
    for row, (_, prompt, _) in zip(features, wanted, strict=True):
        hidden = nearest[recognition.rows[prompt.row]["code"], prompt.style]
        kept = [
            place
            for place, shown in enumerate(zip(gallery.concepts, gallery.styles, strict=True))
            if shown != (prompt.concept, hidden)
        ]
        less = Gallery(
            gallery.features[kept],
            [gallery.concepts[place] for place in kept],
            [gallery.styles[place] for place in kept],
        )
        places += ranks([Query(row, prompt.concept, prompt.style)], less, recognition.among)
    return np.array(places)


if __name__ == "__main__":
    main()
