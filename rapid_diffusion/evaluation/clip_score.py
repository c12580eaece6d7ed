"""The section "CLIP score": the trained pair's opinion, and what its numbers mean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rapid_diffusion.evaluation.evidence import Evidence, Record, Section, Table
from rapid_diffusion.evaluation.intervals import compared, rounded
from rapid_diffusion.evaluation.pictures import is_training
from rapid_diffusion.evaluation.recognised import PAIRS, WORDS
from rapid_diffusion.pipeline import RapidDiffusionPipeline

TITLE = "CLIP score"
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
#: Foreign sentences for each real picture of the calibration.
FOREIGN = 4
MOST_PAIRS = 500
Scores = NDArray[np.float64]


def clip_score(evidence: Evidence) -> Section:
    """Cosine of picture and sentence, beside real held-out pairs that match and that do not."""
    scorer = evidence.scorer
    says = (
        "The cosine between a picture and its sentence in the space of the trained text and image"
    )
    if scorer is None:
        missing = "no model here has an image tower (`image_tower/` in its folder)"
        return Section(TITLE, says + " towers.", missing=missing)
    says += f" towers of {scorer.name}: a model judged by itself. All models are scored by it."
    held_out = [i for i, row in enumerate(evidence.recognition.rows) if not is_training(row)]
    held_out = held_out[:MOST_PAIRS]
    matching, foreign = calibration(evidence, scorer, held_out) if held_out else (None, None)
    if matching is None or foreign is None or not len(foreign):
        return Section(TITLE, says, missing="needs held-out rows of two concepts at least")
    threshold = float(np.quantile(foreign, 0.95))
    tables = [
        Table("calibration on real held-out pairs", _percentiles(matching, foreign)),
        Table("mean score", _rows(evidence, None)),
        Table(f"share above the threshold {rounded(threshold)}", _rows(evidence, threshold)),
    ]
    return Section(TITLE, says, tables, _notes(matching, foreign, threshold))


def calibration(
    evidence: Evidence, scorer: RapidDiffusionPipeline, places: Sequence[int]
) -> tuple[Scores, Scores]:
    """Scores of real pictures with their own sentence (N,) and with others' (M,).

    Real pictures are shrunk as drawn ones are. Others' sentences are of another concept, and never
    the same words.
    """
    recognition = evidence.recognition
    pictures = recognition.real.unit(places, scorer.sizes[0])
    captions = [recognition.rows[place]["captions"][0] for place in places]
    concepts = [recognition.gallery.concepts[place] for place in places]
    own = scorer.score(pictures, captions).double().numpy()
    generator = np.random.default_rng(0)
    rows, texts = [], []
    for row, (caption, concept) in enumerate(zip(captions, concepts, strict=True)):
        others = [
            text
            for text, theirs in zip(captions, concepts, strict=True)
            if text != caption and theirs != concept
        ]
        for text in generator.permutation(others)[:FOREIGN]:
            rows.append(row)
            texts.append(str(text))
    foreign = scorer.score(pictures[rows], texts).double().numpy() if rows else np.zeros(0)
    return own, foreign


def _percentiles(matching: Scores, foreign: Scores) -> list[Record]:
    return [
        {
            "what": what,
            "pictures": len(scores),
            **{f"p{p}": rounded(float(np.percentile(scores, p))) for p in PERCENTILES},
        }
        for what, scores in (("own sentence", matching), ("another's sentence", foreign))
    ]


def _rows(evidence: Evidence, threshold: float | None) -> list[Record]:
    """A row for each run of pairs: mean scores, or the share above a threshold."""
    rows = []
    for name in (name for name in PAIRS if name in evidence.plan.runs):
        wanted = evidence.wanted([name])
        found = {}
        for source, drawings in evidence.drawings.items():
            scores = drawings.scores_of(task for _, task in wanted)
            assert scores is not None
            found[source] = scores if threshold is None else (scores > threshold).astype(np.float64)
        groups = [prompt.concept for prompt, _ in wanted]
        rows.append(compared(WORDS[name], found["model"], found.get("against"), groups))
    return rows


def _notes(matching: Scores, foreign: Scores, threshold: float) -> list[str]:
    above = float((matching > threshold).mean())
    wins = (matching[:, None] > foreign[None, :]).mean()
    ties = (matching[:, None] == foreign[None, :]).mean()
    return [
        f"The threshold {rounded(threshold)} lets 5 % of foreign sentences pass and"
        f" {rounded(100 * above)} % of real pairs. A real pair scores above a foreign one in"
        f" {rounded(float(100 * (wins + ties / 2)))} % of cases.",
        "Pictures that were chosen by this score look better here than they are.",
    ]
