"""Frequent words of captions that link to nothing, without a dictionary to segment them with.

Chinese has no spaces, so every run of two to six ideographs counts as a candidate, unless it begins
or ends with a particle; Latin words count whole. A shorter run is dropped where a longer one that
holds it is nearly as frequent.
"""

import re
from collections import Counter
from collections.abc import Iterable

_RUNS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[a-z][a-z'-]+", re.I)
_LONGEST = 6
# They join words and belong to none: at the edge of a run they say that it is cut wrongly.
_PARTICLES = frozenset("的了着地得和与及或在是有把被也都很就不这那一个只请")
# A number and its measure word part what is before from what is after: 画一件|深色.
_COUNTED = re.compile(
    "[一两几这那每半][个只件条双张幅款套块片支枝瓶盘盏把棵朵颗座辆架盒杯碗本匹头群对]"
)
#: Different candidates kept; beyond, the rarest half is forgotten and counts become lower bounds.
MOST_CANDIDATES = 200_000
_NEARLY = 0.8


class FrequentWords:
    """Counts candidates in bounded memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, text: str, linked: Iterable[tuple[int, int]]) -> None:
        """Count the candidates of `text` outside the `linked` spans, each once a sentence."""
        parted = _COUNTED.sub("\0\0", text.replace("的", "\0"))  # no word has 的 inside
        characters = list(parted)
        for start, end in linked:
            characters[start:end] = "\0" * (end - start)
        found = {word for run in _RUNS.findall("".join(characters)) for word in _candidates(run)}
        self._counts.update(found)
        if len(self._counts) > MOST_CANDIDATES:
            self._counts = Counter(dict(self._counts.most_common(MOST_CANDIDATES // 2)))

    def most_common(self, count: int) -> list[tuple[str, int]]:
        """The most frequent words and in how many sentences they are."""
        ordered = self._counts.most_common(count * 20)
        kept = [
            (word, times)
            for word, times in ordered
            if times > 1
            and not any(
                word != longer and word in longer and more >= _NEARLY * times
                for longer, more in ordered
            )
        ]
        return kept[:count]


def _candidates(run: str) -> Iterable[str]:
    if run.isascii():
        return (run.lower(),)
    return (
        run[start : start + length]
        for length in range(2, _LONGEST + 1)
        for start in range(len(run) - length + 1)
        if run[start] not in _PARTICLES and run[start + length - 1] not in _PARTICLES
    )
