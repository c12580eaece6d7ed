"""What a model draws, judged: are trained pairs, unseen pairs and unseen aliases recognised?

The data folder is the one a training reads (`metadata.jsonl`, pictures, see `recipes/`). Rows name
what they show (`code`, `name`), in which `style`, whether training saw them (`split`), and which
aliases it did not see (`held_out_aliases`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rapid_diffusion.checkpoints.folder import write_json
from rapid_diffusion.evaluation.judge import Judge
from rapid_diffusion.evaluation.retrieval import Gallery, Query, Recall, ranks, recall
from rapid_diffusion.images.convert import pixels_to_unit
from rapid_diffusion.pipeline import RapidDiffusionPipeline
from rapid_diffusion.training.data import read_rows

Row = dict[str, Any]

CONCEPTS = 100
LEAST_STYLES = 5
SEEDS = 4


@dataclass(frozen=True)
class Prompt:
    """A sentence to draw, and what the judge should find in the picture."""

    text: str
    concept: str
    style: str


def run(model: str | Path, data: Path, out: Path, seeds: int = SEEDS) -> dict[str, Any]:
    """Draw, judge, write `out/recognition.json` and return what it holds."""
    pipeline = RapidDiffusionPipeline.from_pretrained(model)
    report = Recognition(data).measure(pipeline, seeds)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "recognition.json", report)
    return report


class Recognition:
    """The judge, its gallery of real pictures, and the prompts; made once, used on many models."""

    def __init__(self, data: Path) -> None:
        self.rows = read_rows(data / "metadata.jsonl")
        self.judge = Judge()
        pictures = np.load(data / "pictures_256.npy", mmap_mode="r")
        features = _features(self.judge, pictures)
        self.gallery = Gallery(
            features, [row["code"] for row in self.rows], [row["style"] for row in self.rows]
        )
        self.among = chosen_concepts(self.rows)

    def measure(self, pipeline: RapidDiffusionPipeline, seeds: int = SEEDS) -> dict[str, Any]:
        """Every figure with its interval. Prompts with names have knowledge on unless said.

        Pairs are drawn with `seeds` seeds, prompts with aliases and their names with half as many.
        """
        half = max(1, seeds // 2)
        trained = _one_style_each(self.rows, self.among)
        held_out = [row for row in self.rows if row["split"] == "held_out" and is_judged(row)]
        hidden = [row for row in self.rows if row["held_out_aliases"] and row["split"] == "train"]
        alias_rows = _one_style_each(hidden, sorted({row["code"] for row in hidden}))
        aliases = [_prompt(row, row["held_out_aliases"][0]) for row in alias_rows]
        names = [_prompt(row) for row in alias_rows]
        runs: dict[str, tuple[Sequence[Prompt], int, bool]] = {
            "trained_pairs": ([_prompt(row) for row in trained], seeds, True),
            "held_out_pairs": ([_prompt(row) for row in held_out], seeds, True),
            "held_out_aliases_knowledge_on": (aliases, half, True),
            "held_out_aliases_knowledge_off": (aliases, half, False),
            "their_names_knowledge_on": (names, half, True),
            "their_names_knowledge_off": (names, half, False),
        }
        return {
            "model": {"name": pipeline.name, "digest": pipeline.digest},
            "parameters": pipeline.default_parameters,
            "judge": "EfficientNet-Lite0, ImageNet; gallery: real pictures in other styles",
            "concepts": len(self.among),
            "seeds": {"pairs": seeds, "aliases_and_names": half},
            "real_pictures": self._real().as_dict(),
            **{
                name: self._drawn(pipeline, *settings, name).as_dict()
                for name, settings in runs.items()
            },
        }

    def _real(self) -> Recall:
        chosen = set(self.among)
        queries = [
            Query(self.gallery.features[place], row["code"], row["style"])
            for place, row in enumerate(self.rows)
            if row["code"] in chosen
        ]
        return recall(queries, ranks(queries, self.gallery, self.among))

    def _drawn(
        self,
        pipeline: RapidDiffusionPipeline,
        prompts: Sequence[Prompt],
        seeds: int,
        knowledge: bool,
        name: str,
    ) -> Recall:
        wanted = [(prompt, seed) for prompt in prompts for seed in range(seeds)]
        rows = ({"prompt": prompt.text, "seed": seed} for prompt, seed in wanted)
        results = pipeline.render(rows, knowledge=knowledge, output_type="numpy")
        queries = []
        for (prompt, _), result in zip(
            wanted, tqdm(results, desc=name, total=len(wanted), unit="picture"), strict=True
        ):
            features = self.judge.features(pixels_to_unit(result.images))[0]
            queries.append(Query(features, prompt.concept, prompt.style))
        return recall(queries, ranks(queries, self.gallery, self.among))


def is_judged(row: Row) -> bool:
    """Animals and foods; of plants the judge knows too few."""
    return row["subgroup"].startswith("animal") or row["group"] == "food-drink"


def chosen_concepts(rows: Sequence[Row]) -> list[str]:
    """100 animals and foods that five styles or more draw, the first by digest of their code."""
    styles: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if is_judged(row):
            styles[row["code"]].add(row["style"])
    often = [code for code, drawn in styles.items() if len(drawn) >= LEAST_STYLES]
    return sorted(often, key=_digest)[:CONCEPTS]


def _one_style_each(rows: Sequence[Row], codes: Sequence[str]) -> list[Row]:
    """For each concept one of its training pictures, so that every style gets its share."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["split"] == "train":
            groups[row["code"]].append(row)
    return [
        min(groups[code], key=lambda row: _digest(row["code"] + row["style"]))
        for code in codes
        if groups[code]
    ]


def _prompt(row: Row, alias: str | None = None) -> Prompt:
    """The plain caption of a row, with the alias in the place of the name."""
    text: str = row["captions"][0]
    if alias is not None:
        text = text.replace(row["name"], alias)
    return Prompt(text, row["code"], row["style"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _features(judge: Judge, pictures: NDArray[np.uint8], batch: int = 32) -> Tensor:
    starts = tqdm(range(0, len(pictures), batch), desc="gallery", unit="batch")
    return torch.cat(
        [judge.features(pixels_to_unit(pictures[start : start + batch])) for start in starts]
    )
