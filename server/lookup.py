"""What the graph finds in a text, as plain data: for `GET /v1/entities` and for answers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knowledge.graph import KnowledgeGraph
    from knowledge.linking import Candidate, Link, Unlinked

_MOST_CANDIDATES = 10


def look_up(graph: "KnowledgeGraph | None", text: str, neighbours: int) -> dict[str, Any]:
    """The links of `text` as prompts get them, each with at most so many facts of its entity.

    Without a graph there is nothing to find. Raises what reading the graph raises.
    """
    if graph is None:
        return {"knowledge": {"version": None}, "entities": [], "unlinked": []}
    reading = graph.read(text)
    return {
        "knowledge": {"version": graph.version},
        "entities": [
            describe_link(link)
            | {
                "candidates": _candidates(link.candidates),
                "neighbours": _neighbours(graph, link.key, neighbours),
            }
            for link in reading.links
        ],
        "unlinked": describe_unlinked(reading.unlinked),
    }


def describe_link(link: "Link") -> dict[str, Any]:
    """A link as answers tell it; `start` and `end` count characters."""
    return {
        "surface": link.surface,
        "start": link.start,
        "end": link.end,
        "id": link.key,
        "name": link.name,
        "score": round(float(link.score), 4),
    }


def describe_unlinked(unlinked: "Iterable[Unlinked]") -> list[dict[str, Any]]:
    """Names that stand for no entity here, why, and what they may mean elsewhere."""
    return [
        {
            "surface": name.surface,
            "start": name.start,
            "end": name.end,
            "reason": name.reason,
            "candidates": _candidates(name.candidates),
        }
        for name in unlinked
    ]


def _candidates(candidates: "tuple[Candidate, ...]") -> list[dict[str, Any]]:
    return [
        {"id": candidate.key, "prior": round(candidate.prior, 4)}
        for candidate in candidates[:_MOST_CANDIDATES]
    ]


def _neighbours(graph: "KnowledgeGraph", key: str, limit: int) -> list[dict[str, Any]]:
    """Facts of an entity; `id` is None where the object is a text."""
    return [
        {
            "relation": fact.relation,
            "id": None if fact.object < 0 else graph.key(fact.object),
            "name": fact.text,
        }
        for fact in graph.neighbours(key, limit=limit)
    ]
