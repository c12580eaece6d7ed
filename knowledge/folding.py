"""Traditional characters -> simplified ones, one for one, so that offsets stay as they are.

The table is OpenCC's (Apache-2.0, kept up to date): asked once for all ideographs of the basic
block and extension A, character by character, because a phrase-wise conversion would change a
surface with the words around it. It takes about 30 ms of CPU at the first text.
"""

from functools import cache

_BLOCKS = ((0x3400, 0x4DC0), (0x4E00, 0xA000))


@cache
def simplified_characters() -> dict[int, str]:
    """Code point of a traditional character -> the simplified one, for `str.translate`."""
    import opencc

    characters = [chr(code) for first, end in _BLOCKS for code in range(first, end)]
    # Line breaks keep each character from forming a phrase with the next.
    folded = opencc.OpenCC("t2s").convert("\n".join(characters)).split("\n")
    pairs = zip(characters, folded, strict=True)
    return {ord(old): new for old, new in pairs if old != new and len(new) == 1}
