"""The graph around the concepts: groups, keywords and colours as triples, words as surfaces."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from recipes.emoji_zh.concepts import Concept
from recipes.emoji_zh.holdout import unique_keywords

#: What people call things that Unicode has no keyword for: a line each, `alias<TAB>name`. They are
#: in no caption, the graph alone says what they mean.
EVERYDAY_NAMES = Path(__file__).with_name("aliases.tsv")
#: A surface that names a concept, one of its keywords that is its alone, or a word of the graph.
NAME_PRIOR, ALIAS_PRIOR, WORD_PRIOR = 1.0, 0.9, 0.5

Triple = tuple[str, str, str]
Alias = tuple[str, str, float]


def entity_key(concept: Concept) -> str:
    """The stable key of a concept's entity, such as `emoji:1f42f`."""
    return f"emoji:{concept.code}"


def build_triples(concepts: Iterable[Concept], colours: dict[str, list[list[str]]]) -> list[Triple]:
    """(subject key, predicate, object key); words that are no concept are keys of their own.

    `colours` holds, for each code, the main colours of each of its pictures; a colour becomes a
    fact where six in ten pictures agree.
    """
    triples: dict[Triple, None] = {}
    for concept in concepts:
        key = entity_key(concept)
        triples[key, "属于", concept.subgroup_name] = None
        triples[concept.subgroup_name, "属于", concept.group_name] = None
        for word in concept.keywords:
            if len(word) <= 8:
                triples[key, "相关", word] = None
        pictures = colours.get(concept.code, [])
        votes = Counter(name for names in pictures for name in set(names[:2]))
        for name, count in votes.most_common(2):
            if count >= max(2, 0.6 * len(pictures)):
                triples[key, "颜色", name] = None
    return list(triples)


def build_aliases(concepts: dict[str, Concept]) -> list[Alias]:
    """(surface, entity key, prior): names, keywords of one concept, English and everyday names."""
    aliases: dict[tuple[str, str], float] = {}
    own = unique_keywords(concepts)
    for code, concept in concepts.items():
        key = entity_key(concept)
        aliases[concept.name, key] = NAME_PRIOR
        aliases.setdefault((concept.english, key), ALIAS_PRIOR)
        for word in own[code]:
            aliases.setdefault((word, key), ALIAS_PRIOR)
    keys = {concept.name: entity_key(concept) for concept in reversed(list(concepts.values()))}
    for alias, name in everyday_names():
        if name in keys:
            aliases.setdefault((alias, keys[name]), ALIAS_PRIOR)
    taken = {surface for surface, _ in aliases}
    words = {w for c in concepts.values() for w in (*c.keywords, c.subgroup_name, c.group_name)}
    for word in sorted(words - taken):
        if 1 < len(word) <= 8:
            aliases[word, word] = WORD_PRIOR
    return [(surface, key, prior) for (surface, key), prior in aliases.items()]


def everyday_names() -> list[list[str]]:
    """The (alias, name of a concept) of `aliases.tsv`."""
    return [line.split("\t") for line in EVERYDAY_NAMES.read_text(encoding="utf-8").splitlines()]
