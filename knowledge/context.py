"""Which meaning of a surface a sentence means: what the graph says of each, against the words.

Evidence for a candidate is a weighted sum of four counts over the rest of the sentence: facts that
stand there in full, pairs of characters that its facts and sense share with it and the other
candidates' do not, single characters likewise, and cues for its kind (knowledge/cues.py).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from operator import add
from typing import NamedTuple

from knowledge.cues import CUES, KINDS, NEED_SUPPORT

# Relations whose objects say what kind of thing the subject is.
KIND_RELATIONS = frozenset({"类型", "标签", "类别"})
_TITLE_MARKS = "《》"
_NOUN_AFTER = "只条匹头尾朵棵座枚颗把盏艘架件杯碗"
_BEFORE = frozenset("的和与跟、骑有是像抱养牵画大小白黑红黄蓝绿灰花老新")
_AFTER = frozenset("的和与跟在是趴坐躺站飞跑走跳游吃喝睡戴穿踏盘正变")
_NUMERALS = frozenset("一二两三四五六七八九十几这那每半各0123456789")
# Two word characters (as of `str.isalnum`) or more: what a pair can lie in.
_WORDS = re.compile(r"[^\W_]{2,}")


@dataclass(frozen=True)
class Weights:
    """How much each kind of evidence counts beside the logarithm of the prior.

    Fitted on the `fit` half of tests/data/link_gold.jsonl by `benchmarks/linking.py --fit`.
    `support` is the evidence that a name of a kind in NEED_SUPPORT must have, by its length:
    two characters, three, four and more.
    """

    fact: float = 1.0
    pair: float = 0.5
    character: float = 0.4
    cue: float = 1.0
    support: tuple[float, float, float] = (0.9, 0.9, 0.9)


class Profile(NamedTuple):
    """What the graph says of an entity, as far as a sentence can be held against it."""

    kinds: tuple[str, ...]
    facts: frozenset[str]  # short texts, whole
    words: str  # the words of its facts and its sense, one a line: a pair is sought in them
    letters: frozenset[str]  # the characters of `words`


class Evidence(NamedTuple):
    """The four counts for one candidate."""

    fact: float
    pair: float
    character: float
    cue: float

    def weigh(self, weights: Weights) -> float:
        """The weighted sum, in the unit of log prior."""
        return (
            weights.fact * self.fact
            + weights.pair * self.pair
            + weights.character * self.character
            + weights.cue * self.cue
        )


def profile(key: str, facts: Sequence[tuple[str, str]]) -> Profile:
    """The profile of an entity from its key and its (relation, normalised text) facts."""
    texts = [_sense(key), *(text for _, text in facts)]
    whole = frozenset(text for text in texts if 2 <= len(text) <= 8)
    words = "\n".join(_WORDS.findall("\n".join(texts)))
    types = [text for relation, text in facts if relation in KIND_RELATIONS]
    return Profile(kinds_of(key, types), whole, words, frozenset(words) - {"\n"})


def kinds_of(key: str, types: Sequence[str]) -> tuple[str, ...]:
    """What kinds of thing an entity is: of its sense and its facts in KIND_RELATIONS."""
    return _kinds(" ".join([_sense(key), *types]))


def needs_support(kinds: tuple[str, ...]) -> bool:
    """Whether things of these kinds are often named with everyday words."""
    return not NEED_SUPPORT.isdisjoint(kinds)


def pairs(text: str) -> set[str]:
    """The adjacent pairs of word characters of a text."""
    found = list(map(add, text, text[1:]))
    return set(compress(found, map(str.isalnum, found)))


def evidence(text: str, start: int, end: int, profiles: Sequence[Profile]) -> list[Evidence]:
    """The counts for each candidate of the surface at [start, end) of a normalised text."""
    rest = f"{text[:start]} {text[end:]}"
    surface, around = text[start:end], set(rest)
    shared = [around & known.letters for known in profiles]
    here = pairs(rest) if any(shared) else set()
    # Only a pair that begins with a shared character can be shared: few are sought in the words.
    found = [
        {pair for pair in here if pair[0] in letters and pair in known.words} if letters else set()
        for letters, known in zip(shared, profiles, strict=True)
    ]
    others = [letters.difference(surface) for letters in shared]
    return [
        Evidence(
            min(3, _count(known.facts - {surface}, rest)),
            min(4, len(_only(found, index))),
            min(6, len(_only(others, index))),
            min(3, _count(_cue_words(known.kinds), rest)),
        )
        for index, known in enumerate(profiles)
    ]


def scores(priors: Sequence[float], counted: Sequence[Evidence], weights: Weights) -> list[float]:
    """Share of each candidate: softmax of log prior + evidence; the sum is 1."""
    logits = [
        math.log(prior) + counts.weigh(weights)
        for prior, counts in zip(priors, counted, strict=True)
    ]
    highest = max(logits)
    shares = [math.exp(logit - highest) for logit in logits]
    return [share / sum(shares) for share in shares]


def is_supported(text: str, start: int, end: int, strength: float, weights: Weights) -> bool:
    """Whether a name that may be an everyday word stands for its entity in this sentence.

    Between title marks or alone it always does; else the evidence must reach `support`.
    """
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    if around == _TITLE_MARKS or not (text[:start] + text[end:]).strip():
        return True
    return strength >= weights.support[min(max(end - start, 2), 4) - 2]


def stands_alone(text: str, start: int, end: int) -> bool:
    """Whether a single ideograph is a word here: counted (一匹马), or between ends of words."""
    before, after = text[max(0, start - 2) : start], text[end : end + 1]
    if len(before) == 2 and before[1] in _NOUN_AFTER and before[0] in _NUMERALS:
        return True
    opens = not before or not _is_word(before[-1]) or before[-1] in _BEFORE
    return opens and (not after or not _is_word(after) or after in _AFTER)


def _is_word(character: str) -> bool:
    return character.isalnum() and not character.isascii()


def _only(sets: Sequence[set[str]], index: int) -> set[str]:
    """What the set at `index` has and no other one."""
    others = (other for number, other in enumerate(sets) if number != index)
    return sets[index].difference(*others)


def _sense(key: str) -> str:
    return key[key.rfind("[") + 1 : -1] if key.endswith("]") and "[" in key else ""


@lru_cache(maxsize=4096)
def _kinds(types: str) -> tuple[str, ...]:
    return tuple(kind for kind, parts in KINDS.items() if any(part in types for part in parts))


@lru_cache(maxsize=4096)
def _cue_words(kinds: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for kind in kinds for word in CUES.get(kind, ()))


def _count(words: frozenset[str], rest: str) -> int:
    """How many of the words stand in the rest of the sentence."""
    return sum(map(rest.__contains__, words))
