"""What the sections of a report are made from: the plan of what is drawn, and what came of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapid_diffusion.evaluation.drawings import Drawings, Task
from rapid_diffusion.evaluation.pictures import digest
from rapid_diffusion.evaluation.report import Prompt, Recognition, Run
from rapid_diffusion.evaluation.retrieval import Query
from rapid_diffusion.pipeline import RapidDiffusionPipeline

Record = dict[str, Any]
#: Side-by-side pictures of trained prompts, and as many of held-out ones.
SHOWN_PROMPTS = 12


@dataclass(frozen=True)
class Table:
    """Records with the same keys; `X_interval` belongs to `X`."""

    title: str
    rows: list[Record]


@dataclass(frozen=True)
class Section:
    """One part of a report. `missing` says why it could not be measured."""

    title: str
    says: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of real pictures of equal size; the first one's captions are drawn."""

    first: list[int]
    second: list[int]
    tasks: list[Task]


@dataclass(frozen=True)
class Plan:
    """Everything a report draws, the same for each model."""

    runs: dict[str, Run]
    splits: list[Split]

    def tasks(self) -> list[Task]:
        """Every picture of it."""
        of_runs = [task for name in self.runs for task in self.tasks_of(name)]
        return of_runs + [task for split in self.splits for task in split.tasks]

    def tasks_of(self, name: str) -> list[Task]:
        """The pictures of one run, in the order of `Run.wanted`."""
        run = self.runs[name]
        return [Task(prompt.text, seed, run.knowledge) for prompt, seed in run.wanted()]

    def shown(self) -> list[tuple[str, Prompt, Task]]:
        """The pictures set side by side: the first prompts by digest, drawn with seed 0."""
        return [
            (name, prompt, Task(prompt.text, 0))
            for name in ("held_out_pairs", "trained_pairs")
            if name in self.runs
            for prompt in by_digest(self.runs[name].prompts)[:SHOWN_PROMPTS]
        ]


def make_plan(recognition: Recognition, seeds: int, pictures: int) -> Plan:
    """Runs of at most `pictures` prompts each, and one split of the real pictures a seed."""
    runs = {
        name: replace(run, prompts=by_digest(run.prompts)[:pictures])
        for name, run in recognition.plan(seeds).items()
    }
    if not runs:
        runs = _runs_without_concepts(recognition, seeds, pictures)
    if not any(name.endswith("_knowledge_off") for name in runs):
        runs |= {
            f"{name}_knowledge_off": replace(runs[name], knowledge=False)
            for name in ("trained_pairs", "held_out_pairs")
            if name in runs
        }
    return Plan(runs, [_split(recognition, seed, pictures) for seed in range(seeds)])


def _runs_without_concepts(recognition: Recognition, seeds: int, pictures: int) -> dict[str, Run]:
    """Rows that do not say what they show can still be drawn, scored and compared."""
    groups: dict[str, list[Prompt]] = {"trained_pairs": [], "held_out_pairs": []}
    for place, row in enumerate(recognition.rows):
        concept, style = recognition.gallery.concepts[place], recognition.gallery.styles[place]
        held_out = row.get("split") == "held_out"
        groups["held_out_pairs" if held_out else "trained_pairs"].append(
            Prompt(row["captions"][0], concept, style, place)
        )
    return {
        name: Run(by_digest(prompts)[:pictures], seeds)
        for name, prompts in groups.items()
        if prompts
    }


def _split(recognition: Recognition, seed: int, pictures: int) -> Split:
    rows = recognition.rows
    order = sorted(range(len(rows)), key=lambda place: digest(f"{seed}/{place}"))
    size = min(pictures, len(order) // 2)
    first, second = order[:size], order[size : 2 * size]
    # A seed for each picture: with one for all, all would come from the same noise.
    tasks = [Task(rows[place]["captions"][0], seed * size + i) for i, place in enumerate(first)]
    return Split(first, second, tasks)


def by_digest(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts in an order that nobody chose."""
    return sorted(prompts, key=lambda prompt: digest(f"{prompt.text}/{prompt.row}"))


@dataclass(frozen=True)
class Evidence:
    """All that was drawn, for the sections to measure. `against` may be missing, and `scorer`."""

    recognition: Recognition
    plan: Plan
    model: Drawings
    against: Drawings | None
    scorer: RapidDiffusionPipeline | None
    size: tuple[int, int]

    @property
    def drawings(self) -> dict[str, Drawings]:
        """By the name that tables use."""
        found = {"model": self.model}
        return found if self.against is None else found | {"against": self.against}

    def wanted(self, names: Iterable[str]) -> list[tuple[Prompt, Task]]:
        """Prompts and tasks of some runs."""
        return [
            (prompt, task)
            for name in names
            if name in self.plan.runs
            for (prompt, _), task in zip(
                self.plan.runs[name].wanted(), self.plan.tasks_of(name), strict=True
            )
        ]

    def ranks(self, drawings: Drawings, wanted: Sequence[tuple[Prompt, Task]]) -> NDArray[np.int64]:
        """For each picture the place (from 0) of its own concept, as the judge sees it."""
        features = drawings.features(task for _, task in wanted)
        queries = [
            Query(feature, prompt.concept, prompt.style)
            for feature, (prompt, _) in zip(features, wanted, strict=True)
        ]
        return np.array(self.recognition.ranks_of(queries), dtype=np.int64)
