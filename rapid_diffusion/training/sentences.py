"""Sentences as a training shows them: linked, tokenised, and varied anew at every step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.text.entities import graph_vectors
from rapid_diffusion.text.tokens import SPECIAL, UNKNOWN, EntitySpan, TextTokenizer, Tokens
from rapid_diffusion.training.config import DataConfig

NO_ENTITY = -1
_SENTENCES_KEPT = 1 << 14

#: What becomes of a sentence's links: left out by chance, all kept, none kept (and no word hidden).
View = Literal["mixed", "linked", "bare"]


@dataclass(frozen=True)
class Captions:
    """Captions as numbers: ids, mask and entities (N, L), and whether an entity is the row's own.

    An entity is its number in the graph, or `NO_ENTITY`.
    """

    ids: Tensor
    mask: Tensor
    entities: Tensor
    own: Tensor

    def at(self, numbers: Tensor) -> "Captions":
        """Those captions, in that order."""
        return Captions(
            self.ids[numbers], self.mask[numbers], self.entities[numbers], self.own[numbers]
        )


class Sentences:
    """One tokenizer, one graph, and the chances with which words and links are left out."""

    def __init__(self, config: DataConfig, graph: KnowledgeGraph, tokenizer: TextTokenizer) -> None:
        self.config = config
        self.graph = graph
        self.tokenizer = tokenizer
        self.vectors = graph_vectors(graph)

    def tokenise(self, texts: Sequence[str], subjects: Sequence[int]) -> Captions:
        """Link and tokenise; `subjects[i]` is the entity that the picture of `texts[i]` shows."""
        # A catalogue says the same of many pictures.
        link_once = lru_cache(_SENTENCES_KEPT)(self.graph.link)
        # Places carry entity number + 1 through the tokenizer.
        spans = [
            [
                EntitySpan(
                    torch.tensor([link.entity + 1.0], dtype=torch.float64), link.start, link.end
                )
                for link in link_once(text)
            ]
            for text in texts
        ]
        tokens = self.tokenizer(texts, spans, 1)
        entities = tokens.entity_vectors[..., 0].long() - 1
        own = entities == torch.tensor(subjects)[:, None]
        return Captions(tokens.ids, tokens.mask, entities, own)

    def subject(self, row: dict[str, Any]) -> int:
        """The entity a row's picture shows: its key under `entity`; no entity equals none."""
        return self.graph.entity(row["entity"]) if "entity" in row else NO_ENTITY - 1

    def vary(self, captions: Captions, generator: torch.Generator, view: View = "mixed") -> Tokens:
        """Some without links, some without the entity's words, some empty."""
        config, count = self.config, len(captions.ids)
        ids, mask, entities = captions.ids, captions.mask, captions.entities
        chance = torch.rand(3, count, 1, generator=generator)
        words_hide = (chance[0] < config.surface_dropout) & (view != "bare")
        ids = torch.where(words_hide & captions.own, self._other_words(ids, generator), ids)
        without = (chance[1] < self._link_dropout(view)) & ~words_hide
        entities = torch.where(without, NO_ENTITY, entities)
        empty = chance[2] < config.caption_dropout
        blank = self.tokenizer([""], [[]], 1)
        ids, mask = torch.where(empty, blank.ids, ids), torch.where(empty, blank.mask, mask)
        entities = torch.where(empty, NO_ENTITY, entities)
        return Tokens(ids, mask, self.vectors[entities], [None] * count)

    def _link_dropout(self, view: View) -> float:
        """The share of sentences without links; a training without knowledge (1) stays one."""
        dropout = self.config.link_dropout
        if view == "mixed":
            return dropout
        return 1.0 if view == "bare" or dropout == 1 else 0.0

    def plain(self, captions: Captions, *, knowledge: bool = True) -> Tokens:
        """As a user would type them, with their links or without."""
        entities = captions.entities
        if not knowledge:
            entities = torch.full_like(entities, NO_ENTITY)
        vectors = self.vectors[entities]
        return Tokens(captions.ids, captions.mask, vectors, [None] * len(captions.ids))

    def replaced(self, tokens: Tokens, pieces: Tensor, generator: torch.Generator) -> Tokens:
        """Some of those `pieces` (B, L) made others: any share of a row, none in half of them."""
        share = torch.rand(len(pieces), 1, generator=generator) * 2 - 1
        chosen = pieces & (torch.rand(pieces.shape, generator=generator) < share)
        ids = torch.where(chosen, self._other_words(tokens.ids, generator), tokens.ids)
        return replace(tokens, ids=ids)

    def _other_words(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Unknown or random pieces: what an alias never seen before looks like."""
        random = torch.randint(len(SPECIAL), len(self.tokenizer), ids.shape, generator=generator)
        unknown = torch.rand(len(ids), 1, generator=generator) < 0.5
        return torch.where(unknown, UNKNOWN, random)
