"""TransE (Bordes et al. 2013): a fact (h, r, t) is plausible where `h + r` lies close to `t`.

Trained as RotatE trains it (Sun et al. 2019, eq. 5-6): self-adversarial negatives and a margin;
the negatives of a batch are shared, and Adagrad keeps one number per row instead of one per cell.
The only module of this room that imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from knowledge.errors import InvalidInputError

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class TransEConfig:
    """How to train. `margin` is in units of distance; `temperature` sharpens the negatives."""

    dimension: int = 128
    epochs: int = 100
    batch_size: int = 1024
    negatives: int = 256
    learning_rate: float = 0.1
    margin: float = 5.0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dimension", "epochs", "batch_size", "negatives", "learning_rate", "margin"):
            if getattr(self, name) <= 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; allowed: more than 0")


@dataclass(frozen=True)
class TransEVectors:
    """entities (E, d) and relations (R, d), float32, on one scale: entities have mean norm 1."""

    entities: Floats
    relations: Floats


@dataclass
class _Table:
    """Rows that are learned, and for each the sum of its mean squared gradients."""

    rows: Tensor
    squares: Tensor

    @classmethod
    def random(cls, count: int, config: TransEConfig, generator: torch.Generator) -> "_Table":
        # The range of RotatE's own code: distances start near the margin.
        bound = (config.margin + 2.0) / config.dimension
        rows = torch.rand(count, config.dimension, generator=generator) * 2 * bound - bound
        return cls(rows, torch.zeros(count))

    def update(self, ids: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step of row-wise Adagrad; `ids` are unique."""
        self.squares[ids] += gradient.square().mean(dim=1)
        rate = learning_rate / (self.squares[ids].sqrt() + 1e-10)
        self.rows[ids] -= rate[:, None] * gradient


def fit(
    triples: npt.NDArray[np.int64],
    entities: int,
    relations: int,
    config: TransEConfig | None = None,
    *,
    progress: Progress | None = None,
) -> TransEVectors:
    """Learn vectors from `triples`, (n, 3) of head, relation, tail. One seed, one result.

    An entity without a triple gets a row of zeros: nothing is known of it. `progress` is called
    with (epoch from 1, mean loss). Raises InvalidInputError for ids out of range.
    """
    config = config or TransEConfig()
    _check_triples(triples, entities, relations)
    generator = torch.Generator().manual_seed(config.seed)
    entity_table = _Table.random(entities, config, generator)
    relation_table = _Table.random(relations, config, generator)
    rows = torch.from_numpy(np.ascontiguousarray(triples, np.int64))
    for epoch in range(config.epochs):
        order = torch.randperm(len(rows), generator=generator)
        losses = [
            _step(rows[batch], entity_table, relation_table, config, generator)
            for batch in torch.split(order, config.batch_size)
        ]
        if progress is not None:
            progress(epoch + 1, sum(losses) / len(losses))
    return _finish(entity_table.rows.numpy(), relation_table.rows.numpy(), triples)


def vector_of_new_entity(
    relations: Floats, tails: Floats, *, incoming: tuple[Floats, Floats] | None = None
) -> Floats:
    """The vector, (d,), of an entity that was not trained but has facts.

    v = mean(t - r) over its own facts (n, d) each; `incoming` is (relations, heads) of facts
    that end in it, which add h + r to the mean. Raises InvalidInputError without any fact.
    """
    guesses = [tails - relations]
    if incoming is not None:
        guesses.append(incoming[1] + incoming[0])
    stacked = np.concatenate(guesses)
    if not len(stacked):
        raise InvalidInputError("a new entity needs at least one fact to get a vector; got none")
    return stacked.mean(axis=0, dtype=np.float32)


def _check_triples(triples: npt.NDArray[np.int64], entities: int, relations: int) -> None:
    if triples.ndim != 2 or triples.shape[1:] != (3,) or not len(triples):
        raise InvalidInputError(f"triples have the shape {triples.shape}, wanted (n > 0, 3)")
    limits = np.array([entities, relations, entities])
    if (triples < 0).any() or (triples >= limits).any():
        raise InvalidInputError(
            f"triples reach {triples.max(axis=0).tolist()}, allowed is below {limits.tolist()}"
        )


def _step(
    batch: Tensor,
    entity_table: _Table,
    relation_table: _Table,
    config: TransEConfig,
    generator: torch.Generator,
) -> float:
    """One batch of triples (B, 3) against one shared set of K negative entities."""
    count = len(entity_table.rows)
    negatives = torch.randint(count, (config.negatives,), generator=generator)
    touched = torch.cat([batch[:, 0], batch[:, 2], negatives])
    entity_ids, places = torch.unique(touched, return_inverse=True)
    relation_ids, relation_places = torch.unique(batch[:, 1], return_inverse=True)
    entities = entity_table.rows[entity_ids].requires_grad_()
    relations = relation_table.rows[relation_ids].requires_grad_()
    sizes = [len(batch), len(batch), len(negatives)]
    head, tail, corrupt = torch.split(entities.index_select(0, places), sizes)
    relation = relations.index_select(0, relation_places)
    same_tail = batch[:, 2:3] == negatives
    same_head = batch[:, 0:1] == negatives
    loss = _loss(head + relation, tail, corrupt, same_tail, config)
    loss = loss + _loss(tail - relation, head, corrupt, same_head, config)
    entity_gradient, relation_gradient = torch.autograd.grad(loss, [entities, relations])
    entity_table.update(entity_ids, entity_gradient, config.learning_rate)
    relation_table.update(relation_ids, relation_gradient, config.learning_rate)
    return loss.item() / (2 * len(batch))


def _loss(
    query: Tensor, answer: Tensor, corrupt: Tensor, is_answer: Tensor, config: TransEConfig
) -> Tensor:
    """Sum over the batch. query, answer (B, d); corrupt (K, d); is_answer (B, K)."""
    positive = (query - answer).square().sum(dim=1).clamp_min(1e-12).sqrt()
    negative = torch.cdist(query, corrupt, compute_mode="use_mm_for_euclid_dist")
    # A negative that happens to be the answer must not be pushed away.
    weights = (-config.temperature * negative.detach()).masked_fill(is_answer, -torch.inf)
    weights = weights.softmax(dim=1).nan_to_num(0.0)
    push = (weights * functional.logsigmoid(negative - config.margin)).sum(dim=1)
    return -(functional.logsigmoid(config.margin - positive) + push).sum() / 2


def _finish(entities: Floats, relations: Floats, triples: npt.NDArray[np.int64]) -> TransEVectors:
    seen = np.zeros(len(entities), bool)
    seen[triples[:, [0, 2]]] = True
    # One common factor keeps every comparison of distances.
    scale = np.float32(1.0 / np.linalg.norm(entities[seen], axis=1).mean())
    return TransEVectors(entities * seen[:, None] * scale, relations * scale)
