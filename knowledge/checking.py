"""The door: every fact and alias is checked here, once. What is refused is counted by reason."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from knowledge.errors import InvalidInputError
from knowledge.linking import normalise

Statement = tuple[str, str, str]  # subject key, relation, object key or text
Alias = tuple[str, str, float | None]  # surface, entity key, prior in (0, 1] or unknown


@dataclass
class CheckedFacts:
    """What passed, without doubles; surfaces are normalised.

    `described` are the keys that are subjects or have a name: more than mere objects.
    """

    triples: list[Statement] = field(default_factory=list)
    aliases: dict[tuple[str, str], float | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    described: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)


def check_facts(
    triples: Iterable[Statement], aliases: Iterable[Alias], names: Mapping[str, str]
) -> CheckedFacts:
    """Strip, check and sort. Of an alias that comes twice the higher prior stays.

    A bad value (empty, unstorable, out of range) is counted in `refused`; a row of the wrong
    shape or type is the caller's mistake: InvalidInputError.
    """
    facts = CheckedFacts()
    kept: set[Statement] = set()
    for row in triples:
        subject, relation, target = _strings("triple", row, row, 3)
        if _passes(facts, "triple", (subject, relation, target)):
            kept.add((subject, relation, target))
    facts.triples = sorted(kept)
    for alias in aliases:
        _add_alias(facts, alias)
    for name_row in names.items():
        key, name = _strings("name", name_row, name_row, 2)
        if _passes(facts, "name", (key, name)):
            facts.names[key] = name
    facts.described = {subject for subject, _, _ in facts.triples} | facts.names.keys()
    return facts


def _add_alias(facts: CheckedFacts, alias: Alias) -> None:
    surface, key = _strings("alias", alias, alias[:2], 2)
    prior = alias[2] if len(alias) == 3 else None
    if prior is not None and not isinstance(prior, (int, float)):
        raise InvalidInputError(f"alias {alias!r}: the prior is a number in (0, 1] or None")
    if not _passes(facts, "alias", (surface, key)) or not _is_prior(facts, prior):
        return
    pair = (normalise(surface).text, key)
    if _passes(facts, "alias", pair):  # a lone variation selector normalises to nothing
        known = facts.aliases.get(pair)
        facts.aliases[pair] = prior if known is None else max(known, prior or 0.0)


def _strings(kind: str, row: object, fields: Iterable[object], count: int) -> list[str]:
    texts = [text.strip() for text in fields if isinstance(text, str)]
    if len(texts) != count or len(list(fields)) != count:
        raise InvalidInputError(f"{kind} {row!r}: wanted {count} strings")
    return texts


def _passes(facts: CheckedFacts, kind: str, fields: tuple[str, ...]) -> bool:
    if not all(fields):
        facts.refused[f"{kind}: empty field"] += 1
        return False
    # Lines end a relation in relations.txt; NUL and lone surrogates fit in no file here.
    if any(c in "\0\n\r" or "\ud800" <= c <= "\udfff" for text in fields for c in text):
        facts.refused[f"{kind}: NUL, line break or not UTF-8"] += 1
        return False
    return True


def _is_prior(facts: CheckedFacts, prior: float | None) -> bool:
    if prior is None or (math.isfinite(prior) and 0 < prior <= 1):
        return True
    facts.refused["alias: prior outside (0, 1]"] += 1
    return False
