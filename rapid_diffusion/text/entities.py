"""Which vectors go where: links of a sentence, or entities a caller names, become spans."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from knowledge.linking import Link, Unlinked
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.request import check_integer, check_number
from rapid_diffusion.text.tokens import EntitySpan

MOST_WEIGHT = 2.0

#: A link, and how strongly its entity's vector is added.
WeightedLink = tuple[Link, float]


@dataclass(frozen=True)
class EntityWeight:
    """An entity a caller asks for: its key (or number), how strongly, and for which characters.

    `weight` runs from 0 (off) to 2. Without a span the entity goes to the first place where the
    sentence has its name, and to the sentence as a whole where it has not.
    """

    entity: int | str
    weight: float = 1.0
    start: int | None = None
    end: int | None = None


def links_of(
    graph: KnowledgeGraph | None, prompt: str, knowledge: bool | Sequence[EntityWeight]
) -> list[WeightedLink]:
    """The links of one sentence with their weights: found in it, or as the caller wants them.

    Raises `InvalidRequestError` (field `knowledge`) for an unknown entity, a weight outside 0 to
    2, or a span outside the sentence.
    """
    if isinstance(knowledge, bool):
        linked = knowledge and graph is not None and graph.dimension > 0
        return [(link, 1.0) for link in graph.link(prompt)] if graph and linked else []
    wishes = _checked_wishes(knowledge)
    if wishes and (graph is None or graph.dimension == 0):
        raise InvalidRequestError(
            "knowledge", "this model has no entity vectors, so no entity can be named"
        )
    return [(_named_link(graph, prompt, wish), float(wish.weight)) for wish in wishes if graph]


def unlinked_of(
    graph: KnowledgeGraph | None, prompt: str, knowledge: bool | Sequence[EntityWeight]
) -> list[Unlinked]:
    """The names in a sentence that `links_of` leaves out, and why."""
    linked = knowledge is True and graph is not None and graph.dimension > 0
    return graph.read(prompt).unlinked if graph and linked else []


def spans_of(graph: KnowledgeGraph | None, links: Sequence[WeightedLink]) -> list[EntitySpan]:
    """One span a link, with its entity's unit vector times the weight."""
    if graph is None or not links:
        return []
    vectors = unit_rows(torch.from_numpy(graph.vectors([link.entity for link, _ in links])))
    return [
        EntitySpan(weight * vector, *_characters(link))
        for (link, weight), vector in zip(links, vectors, strict=True)
    ]


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows of unit length, a zero row staying zero: RMSNorm without its factor sqrt(E)."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def graph_vectors(graph: KnowledgeGraph) -> Tensor:
    """(entities + 1, E) float32 of unit length; the last row, at index -1, is zero."""
    vectors = unit_rows(torch.from_numpy(graph.vectors(np.arange(len(graph)))))
    return torch.cat([vectors, torch.zeros(1, vectors.shape[1])])


def _checked_wishes(knowledge: object) -> Sequence[EntityWeight]:
    if not isinstance(knowledge, Sequence) or not all(
        isinstance(wish, EntityWeight) for wish in knowledge
    ):
        raise InvalidRequestError(
            "knowledge", f"{knowledge!r:.80}; allowed: True, False, or a list of EntityWeight"
        )
    for wish in knowledge:
        check_number("knowledge", wish.weight, MOST_WEIGHT, f" as the weight of {wish.entity!r}")
    return knowledge


def _characters(link: Link) -> tuple[int | None, int | None]:
    """A span of no characters stands for the whole sentence: the vector goes to the CLS token."""
    return (None, None) if link.start == link.end else (link.start, link.end)


def _named_link(graph: KnowledgeGraph, prompt: str, wish: EntityWeight) -> Link:
    try:
        entity = graph.entity(wish.entity)
    except (KnowledgeError, TypeError) as error:
        raise InvalidRequestError("knowledge", str(error)) from error
    name = graph.name(entity)
    start, end = _span(prompt, wish, name)
    return Link(start, end, prompt[start:end], entity, graph.key(entity), name, 1.0, ())


def _span(prompt: str, wish: EntityWeight, name: str) -> tuple[int, int]:
    """The characters asked for, or those of the name; (0, 0) stands for the whole sentence."""
    if wish.start is None and wish.end is None:
        place = prompt.find(name)
        return (place, place + len(name)) if place >= 0 else (0, 0)
    start = check_integer("knowledge", wish.start, 0, len(prompt))
    end = check_integer("knowledge", wish.end, 0, len(prompt))
    if start >= end:
        raise InvalidRequestError(
            "knowledge", f"span {start}..{end} for {wish.entity!r}; start must be less than end"
        )
    return start, end
