"""What a model draws, judged: are trained pairs, unseen pairs and unseen aliases recognised?

The data folder is the one a training reads (`metadata.jsonl`, pictures, see `recipes/`). Rows name
what they show (`code`, or `entity` or `name`), in which `style`, whether training saw them
(`split`), and which aliases it did not see (`held_out_aliases`). Without a `style`, every picture
counts as a style of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rapid_diffusion.evaluation.judge import Judge
from rapid_diffusion.evaluation.pictures import (
    MOST_PICTURES,
    RealPictures,
    Row,
    concept_of,
    digest,
    is_training,
)
from rapid_diffusion.evaluation.retrieval import Gallery, Query, Recall, ranks, recall
from rapid_diffusion.images.convert import pixels_to_unit
from rapid_diffusion.pipeline import RapidDiffusionPipeline

CONCEPTS = 100
LEAST_STYLES = 5
#: The groups of Unicode's emoji, as emojibase writes them.
EMOJI_GROUPS = frozenset(
    {
        "smileys-emotion",
        "people-body",
        "component",
        "animals-nature",
        "food-drink",
        "travel-places",
        "activities",
        "objects",
        "symbols",
        "flags",
    }
)
SEEDS = 4


@dataclass(frozen=True)
class Prompt:
    """A sentence to draw, what the judge should find in the picture, and the row it is from."""

    text: str
    concept: str
    style: str
    row: int = -1


@dataclass(frozen=True)
class Run:
    """Prompts that are drawn together, each with the seeds 0 to `seeds` - 1."""

    prompts: Sequence[Prompt]
    seeds: int
    knowledge: bool = True

    def wanted(self) -> list[tuple[Prompt, int]]:
        """Every picture of the run."""
        return [(prompt, seed) for prompt in self.prompts for seed in range(self.seeds)]


class Recognition:
    """The judge, its gallery of real pictures, and the prompts; made once, used on many models."""

    def __init__(self, data: Path, judge: Judge | None = None, most: int = MOST_PICTURES) -> None:
        self.real = RealPictures(data, most)
        self.rows = self.real.rows
        self.judge = judge or Judge()
        #: (N, 1280), as the judge gives them; the gallery has them at unit length.
        self.pooled = _pooled(self.judge, self.real)
        concepts = [concept_of(row) or f"row {i}" for i, row in enumerate(self.rows)]
        styles = [str(row.get("style", f"picture {i}")) for i, row in enumerate(self.rows)]
        self.gallery = Gallery(functional.normalize(self.pooled, dim=-1), concepts, styles)
        self.among = chosen_concepts(self.rows)

    def plan(self, seeds: int = SEEDS) -> dict[str, Run]:
        """What is drawn for `measure`, by name; runs without prompts are left out."""
        half = max(1, seeds // 2)
        trained = self.one_prompt_each(self.among)
        held_out = [i for i, row in enumerate(self.rows) if self._is_held_out(i, row)]
        hidden = [i for i, row in enumerate(self.rows) if _has_hidden_alias(row)]
        alias_rows = self._one_style_each(hidden, sorted({self._concept(i) for i in hidden}))
        aliases = [self._prompt(i, self.rows[i]["held_out_aliases"][0]) for i in alias_rows]
        names = [self._prompt(i) for i in alias_rows]
        runs = {
            "trained_pairs": Run(trained, seeds),
            "held_out_pairs": Run([self._prompt(i) for i in held_out], seeds),
            "held_out_aliases_knowledge_on": Run(aliases, half),
            "held_out_aliases_knowledge_off": Run(aliases, half, False),
            "their_names_knowledge_on": Run(names, half),
            "their_names_knowledge_off": Run(names, half, False),
        }
        return {name: run for name, run in runs.items() if run.prompts}

    def measure(self, pipeline: RapidDiffusionPipeline, seeds: int = SEEDS) -> dict[str, Any]:
        """Every figure with its interval. Prompts with names have knowledge on unless said.

        Pairs are drawn with `seeds` seeds, prompts with aliases and their names with half as many.
        """
        return {
            "model": {"name": pipeline.name, "digest": pipeline.digest},
            "parameters": pipeline.default_parameters,
            "judge": "EfficientNet-Lite0, ImageNet; gallery: real pictures in other styles",
            "concepts": len(self.among),
            "seeds": {"pairs": seeds, "aliases_and_names": max(1, seeds // 2)},
            "real_pictures": self.recall_of(self.real_queries()).as_dict(),
            **{
                name: self.recall_of(self._drawn(pipeline, run, name)).as_dict()
                for name, run in self.plan(seeds).items()
            },
        }

    def one_prompt_each(self, concepts: Sequence[str]) -> list[Prompt]:
        """The plain caption of a training picture of each concept; all styles get their share."""
        chosen = self._one_style_each(range(len(self.rows)), concepts)
        return [self._prompt(place) for place in chosen]

    def real_queries(self) -> list[Query]:
        """Every real picture of the concepts that are judged."""
        chosen = set(self.among)
        return [
            Query(self.gallery.features[place], concept, self.gallery.styles[place])
            for place, concept in enumerate(self.gallery.concepts)
            if concept in chosen
        ]

    def ranks_of(self, queries: Sequence[Query]) -> list[int]:
        """The place of each query's concept among those that are judged."""
        return ranks(queries, self.gallery, self.among)

    def recall_of(self, queries: Sequence[Query]) -> Recall:
        """Recall at 1 and 5 with intervals."""
        return recall(queries, self.ranks_of(queries))

    def _drawn(self, pipeline: RapidDiffusionPipeline, run: Run, name: str) -> list[Query]:
        wanted = run.wanted()
        rows = ({"prompt": prompt.text, "seed": seed} for prompt, seed in wanted)
        results = pipeline.render(rows, knowledge=run.knowledge, output_type="numpy")
        queries = []
        for (prompt, _), result in zip(
            wanted, tqdm(results, desc=name, total=len(wanted), unit="picture"), strict=True
        ):
            features = self.judge.features(pixels_to_unit(result.images))[0]
            queries.append(Query(features, prompt.concept, prompt.style))
        return queries

    def _is_held_out(self, place: int, row: Row) -> bool:
        """Held out, of a kind the judge knows, and shown by another picture of the gallery."""
        if row.get("split") != "held_out" or not is_judged(row):
            return False
        concept, style = self._concept(place), self.gallery.styles[place]
        return any(
            theirs == concept and other != style
            for theirs, other in zip(self.gallery.concepts, self.gallery.styles, strict=True)
        )

    def _concept(self, place: int) -> str:
        return self.gallery.concepts[place]

    def _one_style_each(self, places: Sequence[int], concepts: Sequence[str]) -> list[int]:
        """For each concept one of its training pictures, so that every style gets its share."""
        groups: dict[str, list[int]] = defaultdict(list)
        for place in places:
            if is_training(self.rows[place]):
                groups[self._concept(place)].append(place)

        def order(place: int) -> str:
            return digest(self._concept(place) + self.gallery.styles[place])

        return [min(groups[name], key=order) for name in concepts if groups[name]]

    def _prompt(self, place: int, alias: str | None = None) -> Prompt:
        """The plain caption of a row, with the alias in the place of the name."""
        row = self.rows[place]
        prompt = Prompt(row["captions"][0], self._concept(place), self.gallery.styles[place], place)
        if alias is None:
            return prompt
        return replace(prompt, text=prompt.text.replace(row["name"], alias))


def is_judged(row: Row) -> bool:
    """Of emoji, animals and foods: of plants the judge knows too few. All of anything else."""
    if row.get("group") not in EMOJI_GROUPS:
        return True
    return str(row.get("subgroup")).startswith("animal") or row["group"] == "food-drink"


def chosen_concepts(rows: Sequence[Row]) -> list[str]:
    """100 animals and foods that five styles or more draw, the first by digest of their code.

    Where rows name no style, two pictures of a concept are enough.
    """
    styles: dict[str, set[str]] = defaultdict(set)
    for place, row in enumerate(rows):
        concept = concept_of(row)
        if concept is not None and is_judged(row):
            styles[concept].add(str(row.get("style", f"picture {place}")))
    least = LEAST_STYLES if any("style" in row for row in rows) else 2
    often = [concept for concept, drawn in styles.items() if len(drawn) >= least]
    return sorted(often, key=digest)[:CONCEPTS]


def _has_hidden_alias(row: Row) -> bool:
    return bool(row.get("held_out_aliases")) and row.get("split") == "train" and "name" in row


def _pooled(judge: Judge, real: RealPictures, batch: int = 32) -> Tensor:
    """(N, 1280) of all real pictures."""
    starts = tqdm(range(0, len(real), batch), desc="gallery", unit="batch")
    places = list(range(len(real)))
    return torch.cat(
        [
            judge.pooled(pixels_to_unit(real.pixels(places[start : start + batch])))
            for start in starts
        ]
    )
