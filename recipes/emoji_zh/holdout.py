"""What training never sees, by rule: pairs of concept and style, and aliases.

The rules are pure functions of the words, so that the same file comes out everywhere; the file
`holdout.json` is committed, and the build refuses to go on where the two differ.
"""

import hashlib
from collections import Counter

from recipes.emoji_zh.concepts import Concept

PAIR_SHARE = 0.08
ALIAS_CONCEPTS = 150
#: The first weights know these groups only, so their concepts come first among the held-out.
FIRST_GROUPS = ("animals-nature", "food-drink")


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def held_out_pairs(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """8 % of the (code, style) pairs, the first in the order of their digests.

    A concept keeps at least two styles to learn from.
    """
    left = Counter(code for code, _ in pairs)
    chosen: list[tuple[str, str]] = []
    for pair in sorted(pairs, key=lambda pair: _order("/".join(pair))):
        if len(chosen) == round(PAIR_SHARE * len(pairs)):
            break
        if left[pair[0]] > 2:
            left[pair[0]] -= 1
            chosen.append(pair)
    return sorted(chosen)


def unique_keywords(concepts: dict[str, Concept]) -> dict[str, list[str]]:
    """Code -> keywords that belong to this concept alone and are no concept's name.

    Single characters are left out (as surfaces they would be found inside longer words), and so
    are colours, which every sentence may use.
    """
    owners = Counter(word for concept in concepts.values() for word in set(concept.keywords))
    names = {concept.name for concept in concepts.values()}
    return {
        code: [
            word
            for word in concept.keywords
            if owners[word] == 1 and word not in names and len(word) > 1 and word[-1] != "色"
        ]
        for code, concept in concepts.items()
    }


def held_out_aliases(concepts: dict[str, Concept]) -> dict[str, list[str]]:
    """For 150 concepts, every keyword that is theirs alone and shares no character with the name.

    Anything else could be guessed from the characters.
    """
    candidates = {
        code: foreign
        for code, words in unique_keywords(concepts).items()
        if (foreign := [w for w in words if not set(w) & set(concepts[code].name)])
    }
    first = {code: concepts[code].group not in FIRST_GROUPS for code in candidates}
    order = sorted(candidates, key=lambda code: (first[code], _order(code)))
    return {code: candidates[code] for code in sorted(order[:ALIAS_CONCEPTS])}
