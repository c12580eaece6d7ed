"""The sections on what the judge recognises: retrieval, knowledge on and off, entity types."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from rapid_diffusion.evaluation.drawings import Drawings, Task
from rapid_diffusion.evaluation.evidence import Evidence, Record, Section, Table
from rapid_diffusion.evaluation.intervals import compared, rounded
from rapid_diffusion.evaluation.pictures import kind_of
from rapid_diffusion.evaluation.report import Prompt
from rapid_diffusion.evaluation.retrieval import recall

NO_CONCEPTS = (
    "rows do not say what they show (`code`, `entity` or `name`), or too few real pictures show the"
    " same; a concept needs five styles, or two pictures where rows name no `style`"
)
WORDS = {
    "trained_pairs": "trained pairs",
    "held_out_pairs": "held-out pairs",
    "held_out_aliases": "held-out aliases",
    "their_names": "their names",
}
PAIRS = ("trained_pairs", "held_out_pairs")
Values = NDArray[np.float64]
Wanted = list[tuple[Prompt, Task]]


def retrieval(evidence: Evidence) -> Section:
    """Is the right thing found? R@1 and R@5 among the concepts."""
    says = (
        "The judge, which never saw a drawing of ours, looks for the nearest real pictures in other"
        " styles: R@k is the share whose own concept is among the k nearest of"
        f" {len(evidence.recognition.among)} concepts. Intervals resample concepts."
    )
    if not evidence.recognition.among:
        return Section("Retrieval by the judge", says, missing=NO_CONCEPTS)
    queries = evidence.recognition.real_queries()
    real = recall(queries, evidence.recognition.ranks_of(queries))
    tables = []
    for k, share, interval in (
        (1, real.at_1, real.interval_1),
        (5, real.at_5, real.interval_5),
    ):
        bounds = [rounded(bound) for bound in interval]
        rows: list[Record] = [
            {
                "what": "real pictures",
                "pictures": real.queries,
                "real": rounded(share),
                "real_interval": bounds,
            }
        ]
        for name in (name for name in PAIRS if name in evidence.plan.runs):
            rows.append(_row(evidence, WORDS[name], evidence.wanted([name]), k))
        tables.append(Table(f"R@{k}", rows))
    chance = f"Guessing finds {rounded(1 / len(evidence.recognition.among))} at 1."
    return Section("Retrieval by the judge", says, tables, [chance])


def knowledge(evidence: Evidence, graphs: bool) -> Section:
    """The same sentences and seeds with the graph and without."""
    title, measure = "Knowledge on and off", _measure_name(evidence)
    says = (
        f"The same sentences and seeds with the knowledge graph and without; {measure}. An alias is"
        " a word for the thing that training never saw: only the graph says what it means."
    )
    if not graphs:
        return Section(title, says, missing="no model here has a knowledge graph")
    if not _can_measure(evidence):
        return Section(title, says, missing=NO_CONCEPTS + "; and no model has an image tower")
    rows: list[Record] = []
    for name, words in WORDS.items():
        on = name if name in PAIRS else f"{name}_knowledge_on"
        off = f"{name}_knowledge_off"
        if on in evidence.plan.runs and off in evidence.plan.runs:
            rows += _on_and_off(evidence, words, on, off)
    return Section(title, says, [Table(measure, rows)])


def _on_and_off(evidence: Evidence, words: str, on: str, off: str) -> list[Record]:
    with_graph, without = evidence.wanted([on]), evidence.wanted([off])
    groups = [prompt.concept for prompt, _ in with_graph]
    values = {
        name: (_values(evidence, drawings, with_graph), _values(evidence, drawings, without))
        for name, drawings in evidence.drawings.items()
    }
    ours, theirs = values["model"], values.get("against")
    return [
        compared(f"{words}, on", ours[0], theirs and theirs[0], groups),
        compared(f"{words}, off", ours[1], theirs and theirs[1], groups),
        compared(
            f"{words}, on less off", ours[0] - ours[1], theirs and theirs[0] - theirs[1], groups
        ),
    ]


def entity_types(evidence: Evidence) -> Section:
    """A row for each type of thing that the data set knows."""
    title, measure = "By type of entity", _measure_name(evidence)
    says = f"Trained and held-out pairs together, {measure}. Few pictures make wide intervals."
    kinds: dict[str, Wanted] = defaultdict(list)
    for prompt, task in evidence.wanted(PAIRS):
        kind = kind_of(evidence.recognition.rows[prompt.row])
        if kind is not None:
            kinds[kind].append((prompt, task))
    if not kinds:
        return Section(title, says, missing="rows name no type (`subgroup` or `group`)")
    if not _can_measure(evidence):
        return Section(title, says, missing=NO_CONCEPTS + "; and no model has an image tower")
    rows = [
        {"concepts": len({prompt.concept for prompt, _ in kinds[kind]})}
        | _row(evidence, kind, kinds[kind])
        for kind in sorted(kinds)
    ]
    return Section(title, says, [Table(measure, rows)])


def _row(evidence: Evidence, what: str, wanted: Wanted, k: int = 1) -> Record:
    values = {
        name: _values(evidence, drawings, wanted, k) for name, drawings in evidence.drawings.items()
    }
    groups = [prompt.concept for prompt, _ in wanted]
    return compared(what, values["model"], values.get("against"), groups)


def _values(evidence: Evidence, drawings: Drawings, wanted: Wanted, k: int = 1) -> Values:
    """Whether each picture is found among the first k; its CLIP score where nothing can find."""
    if evidence.recognition.among:
        return (evidence.ranks(drawings, wanted) < k).astype(np.float64)
    scores = drawings.scores_of(task for _, task in wanted)
    assert scores is not None
    return scores


def _can_measure(evidence: Evidence) -> bool:
    return bool(evidence.recognition.among) or evidence.scorer is not None


def _measure_name(evidence: Evidence) -> str:
    return "R@1 by the judge" if evidence.recognition.among else "CLIP score"
