"""From a sentence to its entities: normalise, match, choose spans, choose candidates.

Every position that leaves this module is a character offset in the ORIGINAL text.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from knowledge.folding import simplified_characters

# Variation selectors, zero-width space, soft hyphen, byte order mark: they carry no meaning here.
_IGNORED = frozenset("\ufe0e\ufe0f\u200b\u00ad\ufeff")
# Counts the changes of `normalise` that a dictionary must be built with. 2: simplified characters.
NORMALISATION = 2
_NUMBER = re.compile(r"[\d.,:%+\-\s]+")
_REPLACEMENT = "\ufffd"
_CACHED = 1 << 16
_by_end = attrgetter("end", "start", "surface")


@dataclass(frozen=True)
class Candidate:
    """One meaning of a surface; `prior` is in (0, 1]."""

    entity: int
    key: str
    prior: float


@dataclass(frozen=True)
class Link:
    """`text[start:end] == surface` means the entity `entity`; `score` is in (0, 1]."""

    start: int
    end: int
    surface: str
    entity: int
    key: str
    name: str
    score: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Unlinked:
    """`text[start:end] == surface` is a name that the graph knows, and means nothing here.

    `reason`: "below_threshold" where it may be an everyday word and the sentence says too little
    for an entity, "too_many" where others were longer or more certain.
    """

    start: int
    end: int
    surface: str
    reason: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Reading:
    """What a text mentions, and what it might have; both disjoint and in order."""

    links: list[Link]
    unlinked: list[Unlinked]


@dataclass(frozen=True)
class NormalText:
    """Normalised text; character i of it came from `[starts[i], ends[i])` of the original."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class Match(NamedTuple):
    """A surface found at [start, end) of the normalised text; `surface` is its number."""

    start: int
    end: int
    surface: int
    prior: float


def normalise(text: str, *, simplify: bool = True) -> NormalText:
    """NFKC, lower case, simplified; one user-perceived character at a time: offsets stay known.

    `simplify=False` keeps traditional characters, as versions before normalisation 2 have them.

    Lone surrogates and NUL become U+FFFD: the dictionary cannot hold them.
    """
    folded = "".join(map(_FOLDS[simplify].__getitem__, text))
    if len(folded) == len(text):
        return NormalText(folded, tuple(range(len(text))), tuple(range(1, len(text) + 1)))
    return normalise_plainly(text, simplify=simplify)


def normal_text(text: str) -> str:
    """`normalise(text).text`."""
    folded = "".join(map(_FOLDS[True].__getitem__, text))
    return folded if len(folded) == len(text) else normalise_plainly(text).text


def normalise_plainly(text: str, *, simplify: bool = True) -> NormalText:
    """What `normalise` means, and how it reads a text with a character that does not fold alone."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for start, end in _characters(text):
        piece = _normal_form(text[start:end], simplify)
        pieces.append(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
    return NormalText("".join(pieces), tuple(starts), tuple(ends))


def fold(character: str, *, simplify: bool = True) -> str:
    """The one character that this one becomes wherever it stands; "" if there is no such one."""
    form = "" if _extends(character) else _normal_form(character, simplify)
    return form if len(form) == 1 else ""


def inside_word(text: str, start: int, end: int) -> bool:
    """Whether [start, end) cuts an ASCII word, as `cat` does in `category`. Chinese has no cuts."""
    return _joined(text, start) or _joined(text, end)


def is_weak(surface: str, names: Sequence[tuple[str, float]]) -> bool:
    """Whether a normalised surface says too little to win alone.

    Pure numbers are weak. So is a single letter or ideograph, unless `names`, the (normalised
    name, prior) of its candidates, has it as the name of an entity with a prior of 0.5 or more.
    A single symbol (an emoji) means one thing and is not weak.
    """
    if surface.isnumeric() or _NUMBER.fullmatch(surface):
        return True
    if len(surface) != 1 or unicodedata.category(surface) == "So":
        return False
    return not any(name == surface and prior >= 0.5 for name, prior in names)


def best_spans(matches: Sequence[Match]) -> list[Match]:
    """The non-overlapping matches with the highest total weight, in order of position.

    A span weighs its length, less 0.5 so that one long span beats two that cover the same
    characters, plus a fifth of its prior; of equals the later wins, since Chinese words end in
    their head (茶杯, not 红茶, in 大红茶杯). Weighted interval scheduling, O(n log n).
    """
    ordered = sorted(matches, key=_by_end)
    if not ordered:
        return []
    # best[p]: the highest weight of any choice that ends at or before position p.
    best = [0.0] * (ordered[-1].end + 1)
    taken: list[Match | None] = [None] * len(best)
    filled = 0
    for match in ordered:
        if match.end > filled:
            best[filled + 1 : match.end + 1] = [best[filled]] * (match.end - filled)
            filled = match.end
        total = best[match.start] + weight(match)
        if total >= best[match.end]:
            best[match.end], taken[match.end] = total, match
    return _walk_back(taken)


def weight(match: Match) -> float:
    """How much a span is worth; see `best_spans`."""
    return match.end - match.start - 0.5 + 0.2 * match.prior


def strongest(matches: Sequence[Match], count: int) -> list[Match]:
    """The `count` heaviest of disjoint matches, in order of position."""
    heaviest = sorted(matches, key=lambda match: (-weight(match), match.start))[:count]
    return sorted(heaviest, key=lambda match: match.start)


def find_matches(
    text: NormalText, prefixes: Callable[[str], Iterable[tuple[str, int]]], longest: int
) -> Iterator[tuple[int, str, int]]:
    """Yield (start, surface, number) for every surface at every position that cuts no word.

    `prefixes` gives the dictionary's surfaces that a string starts with, and their numbers;
    `longest` is the length of its longest surface, so that a long text costs no more per character.
    """
    whole = text.text
    for start in range(len(whole)):
        for surface, number in prefixes(whole[start : start + longest]):
            if not _cuts(text, start, start + len(surface)):
                yield start, surface, number


def _cuts(text: NormalText, start: int, end: int) -> bool:
    # A ligature or "㎏" is one original character: half of it is no span either.
    half = (start > 0 and text.starts[start] == text.starts[start - 1]) or (
        end < len(text.text) and text.starts[end] == text.starts[end - 1]
    )
    return half or inside_word(text.text, start, end)


def _joined(text: str, position: int) -> bool:
    if not 0 < position < len(text):
        return False
    pair = text[position - 1 : position + 1]
    return pair.isascii() and pair.isalnum()


@lru_cache(maxsize=_CACHED)
def _normal_form(character: str, simplify: bool) -> str:
    kept = "".join(c for c in character if c not in _IGNORED)
    normal = unicodedata.normalize("NFKC", kept).lower()
    if simplify and not normal.isascii():
        normal = normal.translate(simplified_characters())
    return "".join(_REPLACEMENT if _unstorable(c) else c for c in normal)


def _characters(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for position in range(1, len(text) + 1):
        if position == len(text) or not _extends(text[position]):
            yield start, position
            start = position


@lru_cache(maxsize=_CACHED)
def _extends(character: str) -> bool:
    """Whether NFKC may merge this character into the one before it."""
    if character < "\u0300":
        return False
    if "\u1160" <= character <= "\u11ff" or character in _IGNORED:
        return True
    return unicodedata.combining(unicodedata.normalize("NFKC", character)[0]) != 0


def _unstorable(character: str) -> bool:
    return character == "\0" or "\ud800" <= character <= "\udfff"


def _walk_back(taken: Sequence[Match | None]) -> list[Match]:
    chosen: list[Match] = []
    position = len(taken) - 1
    while position > 0:
        match = taken[position]
        if match is None:
            position -= 1
        else:
            chosen.append(match)
            position = match.start
    return chosen[::-1]


class _Folds(dict[str, str]):
    """`fold` by character, filled as characters are met."""

    def __init__(self, *, simplify: bool) -> None:
        super().__init__()
        self._simplify = simplify

    def __missing__(self, character: str) -> str:
        folded = fold(character, simplify=self._simplify)
        if len(self) < _CACHED:
            self[character] = folded
        return folded


_FOLDS = {simplify: _Folds(simplify=simplify) for simplify in (True, False)}
