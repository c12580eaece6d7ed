"""`normal_text` for columns of texts: one table look-up a character where that is all it takes."""

from functools import cache

import numpy as np
import numpy.typing as npt

from knowledge.linking import fold, normal_text
from knowledge.storage import Array
from knowledge.strings import Integers, Strings

# In the table: not met yet; no one character that it always becomes.
_UNKNOWN, _ALONE = 0xFFFFFFFF, 0xFFFFFFFE
_HIGHEST = 0x110000


def normal_forms(texts: Strings) -> Strings:
    """The normal form of each text: `normal_text(text)`, as UTF-8."""
    if not len(texts):
        return texts
    packed = texts.compact()
    codes = np.frombuffer(packed.tobytes().decode("utf-8").encode("utf-32-le"), np.uint32)
    sizes = character_counts(packed)
    folded = _folded(codes)
    special = folded == _ALONE
    folded = np.where(special, ord("?"), folded)
    written = folded.astype("<u4").tobytes().decode("utf-32-le").encode("utf-8")
    found = Strings.packed(written, _sums(_utf8_sizes(folded), sizes))
    rows = np.flatnonzero(_sums(special, sizes))
    return found.replaced(rows, [_plainly(packed[row]) for row in rows.tolist()])


def character_counts(texts: Strings) -> Integers:
    """How many characters each text of a compact column has."""
    leading = (texts.data & 0xC0) != 0x80
    return _sums(leading[: int(texts.lengths.sum())], texts.lengths)


def _plainly(text: bytes) -> bytes:
    return normal_text(text.decode("utf-8")).encode("utf-8")


def _sums(values: Array, sizes: Integers) -> Integers:
    """The sum of each of the stretches of `sizes` values."""
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(sizes)
    return running[ends] - running[ends - sizes]


def _utf8_sizes(codes: Array) -> npt.NDArray[np.int64]:
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)


def _folded(codes: Array) -> npt.NDArray[np.uint32]:
    table = _table()
    folded: npt.NDArray[np.uint32] = table[codes]
    unknown = folded == _UNKNOWN
    if unknown.any():
        for code in np.unique(codes[unknown]).tolist():
            one = fold(chr(code))
            table[code] = ord(one) if one else _ALONE
        folded = table[codes]
    return folded


@cache
def _table() -> npt.NDArray[np.uint32]:
    """Normal form by character, filled as characters are met."""
    return np.full(_HIGHEST, _UNKNOWN, np.uint32)
