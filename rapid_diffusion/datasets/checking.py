"""What `data check` counts: rows, sizes, doubles, lengths, links; memory does not grow."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.datasets.pictures import Decoded, decode_all
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.datasets.seen import Seen
from rapid_diffusion.datasets.words import FrequentWords

#: Rows named in a report, of each kind; all of them are counted.
MOST_NAMED = 1000
FREQUENT_WORDS = 20


@dataclass(frozen=True)
class Spread:
    """The least, the middle and the largest of some whole numbers."""

    least: int
    median: int
    most: int


@dataclass
class Report:
    """What a data set holds. `reasons` counts broken rows by kind; long lists are cut."""

    rows: int = 0
    broken: int = 0
    broken_rows: list[Problem] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    shorter_side: Spread | None = None
    longer_side: Spread | None = None
    training_size: int = 0
    below_training_size: int = 0
    same_file: int = 0
    same_pixels: int = 0
    doubles: list[tuple[str, str]] = field(default_factory=list)
    captions: int = 0
    caption_length: Spread | None = None
    caption_limit: int = 0
    cut_captions: int = 0
    cut_rows: list[str] = field(default_factory=list)
    linked_captions: int | None = None
    unlinked_words: list[tuple[str, int]] | None = None


@dataclass(frozen=True)
class Limits:
    """What the training will be: the side of its pictures, and the encoder's length in pieces."""

    size: int = 64
    max_length: int = 32


def check(
    rows: Iterable[Row | Problem],
    limits: Limits | None = None,
    graph: KnowledgeGraph | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> Report:
    """Read every row to its last pixel; `on_problem` is told each broken one as it is found."""
    with Seen() as seen:
        survey = _Survey(limits or Limits(), graph, seen)
        for item in decode_all(rows):
            if isinstance(item, Problem):
                if on_problem is not None:
                    on_problem(item)
                survey.add_problem(item)
            else:
                survey.add(item)
        return survey.report()


def piece_count(text: str) -> int:
    """How long a sentence is for an encoder with one piece a character, both ends included."""
    return sum(not character.isspace() for character in text) + 2


def kind_of(reason: str) -> str:
    """A reason without what is particular to its row."""
    kind = re.split(r"[(;:,`'\"\[]|\d", reason, maxsplit=1)[0].strip()
    return kind or reason


class _Survey:
    def __init__(self, limits: Limits, graph: KnowledgeGraph | None, seen: Seen) -> None:
        self._limits, self._graph, self._seen = limits, graph, seen
        self._report = Report(training_size=limits.size, caption_limit=limits.max_length)
        self._reasons: Counter[str] = Counter()
        self._sides: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        self._lengths: Counter[int] = Counter()
        self._words = FrequentWords()
        self._linked = 0

    def add_problem(self, problem: Problem) -> None:
        self._report.broken += 1
        self._reasons[kind_of(problem.reason)] += 1
        _note(self._report.broken_rows, problem)

    def add(self, item: Decoded) -> None:
        self._report.rows += 1
        shorter, longer = sorted(item.image.size)
        self._sides[0][shorter] += 1
        self._sides[1][longer] += 1
        self._report.below_training_size += longer < self._limits.size
        self._compare(item)
        for text in item.row.captions:
            self._add_caption(text, item.row.where)

    def _compare(self, item: Decoded) -> None:
        where = item.row.where
        file = hashlib.blake2b(item.row.picture, digest_size=16, person=b"file")
        pixels = hashlib.blake2b(item.image.tobytes(), digest_size=16, person=b"pixels")
        pixels.update(str(item.image.size).encode())
        same_file = self._seen.first(file.digest(), where)
        same_pixels = self._seen.first(pixels.digest(), where)
        self._report.same_file += same_file is not None
        self._report.same_pixels += same_pixels is not None and same_file is None
        if earlier := same_file or same_pixels:
            _note(self._report.doubles, (where, earlier))

    def _add_caption(self, text: str, where: str) -> None:
        self._report.captions += 1
        length = piece_count(text)
        self._lengths[length] += 1
        if length > self._limits.max_length:
            self._report.cut_captions += 1
            _note(self._report.cut_rows, where)
        if self._graph is not None:
            links = self._graph.link(text)
            self._linked += bool(links)
            self._words.add(text, [(link.start, link.end) for link in links])

    def report(self) -> Report:
        report = self._report
        report.reasons = dict(self._reasons.most_common())
        report.shorter_side, report.longer_side = map(spread, self._sides)
        report.caption_length = spread(self._lengths)
        if self._graph is not None:
            report.linked_captions = self._linked
            report.unlinked_words = self._words.most_common(FREQUENT_WORDS)
        return report


def _note(names: list[Any], name: object) -> None:
    if len(names) < MOST_NAMED:
        names.append(name)


def spread(counts: Counter[int]) -> Spread | None:
    """Least, median (the lower of two) and most; None of nothing."""
    if not counts:
        return None
    middle, passed = (counts.total() + 1) // 2, 0
    for value in sorted(counts):
        passed += counts[value]
        if passed >= middle:
            return Spread(min(counts), value, max(counts))
    raise AssertionError("the counts add up to their total")
