"""N-Triples (https://www.w3.org/TR/n-triples/), as Wikidata and DBpedia are published in.

Entities are named by their labels: a Chinese one is the name, further Chinese ones and English
ones are surfaces, those in other languages are left out.
"""

import math
import re

from knowledge.checking import ALIAS, NAME, TRIPLE, Block, Refusals, Row, block_of
from knowledge.splitting import Chunk
from knowledge.tables import TYPE_RELATION

_TERM = r"<([^<>\"{}|^`\x00-\x20]*)>"
_NODE = r"(_:[^\s<>\"]+)"
_LITERAL = r'"((?:[^"\\\n\r]|\\.)*)"(?:@([A-Za-z]+(?:-[A-Za-z0-9]+)*)|\^\^<[^<>\s]*>)?'
_LINE = re.compile(
    rf"[ \t]*(?:{_TERM}|{_NODE})[ \t]*{_TERM}[ \t]*(?:{_TERM}|{_NODE}|{_LITERAL})[ \t]*\."
    r"[ \t]*(?:#.*)?"
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_PLAIN_ESCAPES = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"} | {c: c for c in "\"'\\"}
_LABELS = frozenset(
    {
        "http://www.w3.org/2000/01/rdf-schema#label",
        "http://www.w3.org/2004/02/skos/core#prefLabel",
        "http://schema.org/name",
    }
)
_ALTERNATIVE = "http://www.w3.org/2004/02/skos/core#altLabel"
_TYPES = frozenset(
    {
        "http://www.w3.org/1999/02/22-rdf-syntax-ns#type",
        "http://www.wikidata.org/prop/direct/P31",
    }
)
# The other Chinese labels of an entity (zh-hant, zh-tw) are surfaces of it.
_NAMED_IN = frozenset({"zh", "zh-cn", "zh-hans"})


def read_ntriples(chunk: Chunk, refusals: Refusals) -> tuple[Block, int]:
    """The facts, names and surfaces of whole lines; all bytes are read."""
    rows: list[tuple[int, Row]] = []
    text = chunk.data.decode("utf-8", "surrogateescape")
    for number, statement in enumerate(text.split("\n")[:-1], chunk.line):
        row = _row(statement.rstrip("\r"))
        if isinstance(row, str):
            refusals.add(row, number, statement)
        elif row is not None:
            rows.append((number, row))
    return block_of(rows, refusals), len(chunk.data)


def _row(line: str) -> Row | str | None:
    """The row of a line, None for a comment or an empty line, or the reason to refuse it."""
    found = _LINE.fullmatch(line)
    if found is None:
        stripped = line.strip()
        return None if not stripped or stripped.startswith("#") else "row: not an N-Triple"
    iri, node, relation, target, other, literal, language = found.groups()
    try:
        subject, relation = _plain(iri or node), _plain(relation)
        text = " ".join(_plain(literal).split()) if literal is not None else _plain(target or other)
    except (ValueError, KeyError):
        return "row: an escape that N-Triples does not have"
    return _said(subject, relation, text, (language or "").lower(), literal is not None)


def _said(subject: str, relation: str, text: str, language: str, literal: bool) -> Row | str:
    if literal and (relation in _LABELS or relation == _ALTERNATIVE):
        if language in _NAMED_IN and relation in _LABELS:
            return NAME, subject, "", text, math.nan
        if not language or language.split("-")[0] in ("zh", "en"):
            return ALIAS, subject, "", text, math.nan
        return "label: in a language that is not linked"
    relation = TYPE_RELATION if relation in _TYPES else relation
    return TRIPLE, subject, relation, text, math.nan


def _plain(term: str) -> str:
    """The term without escapes. Raises ValueError or KeyError for one that does not exist."""
    return _ESCAPE.sub(_character, term) if "\\" in term else term


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    return chr(int(code, 16)) if code else _PLAIN_ESCAPES[escape[3]]
