"""Pairs of concept and style without a picture: `python benchmarks/held_out.py --against OLD`.

Draws the caption of every held-out pair with two models and the same seeds. The judge looks for the
concept among real pictures of other styles. Drafts of such pairs lean on the concept's picture in
the nearest style (`recipes/emoji_zh/missing.py`), so the judge looks a second time with that very
picture out of its gallery. How near a drawing comes to the picture that was held out, and how near
to the one in the nearest style, are cosines of the judge's features.
"""

import argparse
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
from rapid_diffusion.training.data import read_rows


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--against", default="emoji-zh-4")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/held-out.json"))
    options = parser.parse_args()
    recognition = Recognition(options.data)
    pipelines = {
        name: RapidDiffusionPipeline.from_pretrained(getattr(options, name))
        for name in ("model", "against")
    }
    run = recognition.plan(seeds=1)["held_out_pairs"]
    wanted = [("held_out_pairs", prompt, seed) for prompt, seed in run.wanted()]
    pooled = {name: drawn(pipe, recognition, wanted) for name, pipe in pipelines.items()}
    units = {name: functional.normalize(rows, dim=-1) for name, rows in pooled.items()}
    nearest = nearest_places(recognition, wanted, options.data / "missing")
    concepts = [prompt.concept for _, prompt, _ in wanted]
    strict = {
        name: ranks_without(recognition, wanted, rows, nearest) for name, rows in units.items()
    }
    real = recognition.gallery.features[[prompt.row for _, prompt, _ in wanted]]
    leant_on = recognition.gallery.features[nearest]
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


def nearest_places(recognition: Recognition, wanted: Wanted, missing: Path) -> list[int]:
    """For each pair the row of the picture that was laid over its rough one."""
    gallery, rows = recognition.gallery, read_rows(missing / "metadata.jsonl")
    nearest = {(row["code"], row["style"]): row["nearest"] for row in rows}
    places = {
        shown: i for i, shown in enumerate(zip(gallery.concepts, gallery.styles, strict=True))
    }
    codes = [recognition.rows[prompt.row]["code"] for _, prompt, _ in wanted]
    return [
        places[prompt.concept, nearest[code, prompt.style]]
        for code, (_, prompt, _) in zip(codes, wanted, strict=True)
    ]


def cosine(one: Tensor, other: Tensor) -> float:
    """The mean over rows of unit length."""
    return float((one * other).sum(1).mean())


def ranks_without(
    recognition: Recognition, wanted: Wanted, features: Tensor, left_out: list[int]
) -> NDArray[np.int64]:
    """Places from 0, for each picture with one row of the gallery left out."""
    gallery, found = recognition.gallery, []
    for row, (_, prompt, _), place in zip(features, wanted, left_out, strict=True):
        kept = [other for other in range(len(gallery.concepts)) if other != place]
        less = Gallery(
            gallery.features[kept],
            [gallery.concepts[other] for other in kept],
            [gallery.styles[other] for other in kept],
        )
        found += ranks([Query(row, prompt.concept, prompt.style)], less, recognition.among)
    return np.array(found)


if __name__ == "__main__":
    main()
