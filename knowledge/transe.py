"""TransE: an entity is a point, a relation a translation; a true fact (h, r, t) has h + r near t.

Bordes et al. 2013, with the self-adversarial loss of RotatE (Sun et al. 2019). Fast on one core and
small in memory: the negatives of a batch are shared by its heads and tails, gradients are written
out, Adagrad keeps one number per row instead of one per cell, and rows may be float16, rounded to
either neighbour by chance so that small steps are not lost on average.
The only module of this room that imports torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from knowledge.errors import InvalidInputError

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, float], None]
_BLOCK = 1 << 17  # rows that are made or scaled at a time


@dataclass(frozen=True)
class TransEConfig:
    """How to train. `margin` is in units of distance; `temperature` sharpens the negatives.

    precision: "float16" halves the memory of the vectors: for millions of entities.
    device: any that torch knows; "cuda" holds all vectors in its memory.
    """

    dimension: int = 128
    epochs: int = 100
    batch_size: int = 1024
    negatives: int = 256
    learning_rate: float = 0.1
    margin: float = 5.0
    temperature: float = 1.0
    seed: int = 0
    precision: Literal["float32", "float16"] = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("dimension", "epochs", "batch_size", "negatives", "learning_rate", "margin"):
            if getattr(self, name) <= 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; allowed: more than 0")
        if self.precision not in ("float32", "float16"):
            allowed = '"float32", "float16"'
            raise InvalidInputError(f"precision is {self.precision!r}; allowed: {allowed}")


@dataclass(frozen=True)
class TransEVectors:
    """entities (E, d) in the precision that was asked for, and relations (R, d), float32.

    Both on one scale: entities have mean norm 1.
    """

    entities: npt.NDArray[Any]
    relations: Floats


class Gradients(NamedTuple):
    """The loss of a batch, summed, and its gradients: (B, d) three times, and (K, d)."""

    loss: Tensor
    head: Tensor
    relation: Tensor
    tail: Tensor
    corrupt: Tensor


@dataclass
class _Table:
    """Rows that are learned, and for each the sum of its mean squared gradients."""

    rows: Tensor
    squares: Tensor
    generator: torch.Generator

    @classmethod
    def random(
        cls, count: int, config: TransEConfig, precision: str, generator: torch.Generator
    ) -> "_Table":
        # The range of RotatE's own code: distances start near the margin.
        bound = (config.margin + 2.0) / config.dimension
        device = generator.device
        rows = torch.empty(count, config.dimension, dtype=getattr(torch, precision), device=device)
        for block in torch.split(rows, _BLOCK):
            made = torch.rand(block.shape, generator=generator, device=device)
            block.copy_(made * 2 * bound - bound)
        return cls(rows, torch.zeros(count, device=device), generator)

    def update(self, ids: Tensor, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step of row-wise Adagrad; `rows` is what the table has at `ids`, which are unique."""
        self.squares[ids] += gradient.square().mean(dim=1)
        rate = learning_rate / (self.squares[ids].sqrt() + 1e-10)
        rows = rows.addcmul(gradient, rate[:, None], value=-1)
        if self.rows.dtype == torch.float16:
            rows = rounded(rows, self.generator)
        self.rows[ids] = rows


def rounded(rows: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> float16, up or down by chance, so that the expected value stays what it was."""
    # A float16 has 13 bits less behind the point: what is cut off decides by how much chance adds.
    # Beneath 2^-14, where float16 has fewer digits still, the nearest value is taken.
    chance = torch.randint(1 << 13, rows.shape, generator=generator, device=rows.device)
    return (
        (rows.view(torch.int32) + chance.int()).bitwise_and(-(1 << 13)).view(torch.float32).half()
    )


def fit(
    triples: npt.NDArray[np.integer[Any]],
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
    generator = torch.Generator(config.device).manual_seed(config.seed)
    entity_table = _Table.random(entities, config, config.precision, generator)
    relation_table = _Table.random(relations, config, "float32", generator)
    rows = torch.from_numpy(np.ascontiguousarray(triples))
    for epoch in range(config.epochs):
        losses = [
            _step(batch, entity_table, relation_table, config, generator)
            for batch in _batches(rows, config, generator)
        ]
        if progress is not None:
            progress(epoch + 1, float(torch.stack(losses).mean()))
    return _finish(entity_table.rows, relation_table.rows, triples)


def _batches(rows: Tensor, config: TransEConfig, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(
        len(rows), generator=generator, device=generator.device, dtype=torch.int32
    )
    for chosen in torch.split(order.cpu(), config.batch_size):
        yield rows[chosen].to(generator.device, torch.int64)


def _check_triples(triples: npt.NDArray[np.integer[Any]], entities: int, relations: int) -> None:
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
) -> Tensor:
    """One batch of triples (B, 3) against one shared set of K negative entities; its mean loss."""
    count, device = len(entity_table.rows), batch.device
    negatives = torch.randint(count, (config.negatives,), generator=generator, device=device)
    touched = torch.cat([batch[:, 0], batch[:, 2], negatives])
    entity_ids, places = torch.unique(touched, return_inverse=True)
    relation_ids, relation_places = torch.unique(batch[:, 1], return_inverse=True)
    entities, relations = entity_table.rows[entity_ids].float(), relation_table.rows[relation_ids]
    sizes = [len(batch), len(batch), len(negatives)]
    head, tail, corrupt = torch.split(entities[places], sizes)
    # A negative that happens to be the answer must not be pushed away.
    is_answer = torch.cat([batch[:, 2:3], batch[:, 0:1]]) == negatives
    found = gradients(head, relations[relation_places], tail, corrupt, is_answer, config)
    entity_gradient = torch.cat([found.head, found.tail, found.corrupt])
    for table, ids, rows, at, gradient in (
        (entity_table, entity_ids, entities, places, entity_gradient),
        (relation_table, relation_ids, relations, relation_places, found.relation),
    ):
        summed = torch.zeros_like(rows).index_add_(0, at, gradient)
        table.update(ids, rows, summed, config.learning_rate)
    return found.loss / (2 * len(batch))


def gradients(
    head: Tensor,
    relation: Tensor,
    tail: Tensor,
    corrupt: Tensor,
    is_answer: Tensor,
    config: TransEConfig,
) -> Gradients:
    """Of the self-adversarial loss. head, relation, tail (B, d); corrupt (K, d); is_answer (2B, K).

    Written out: automatic differentiation keeps and passes several arrays of (2 B, K) more.
    """
    gap = head + relation - tail
    near = gap.square().sum(dim=1).clamp_min(1e-12).sqrt()
    query = torch.cat([head + relation, tail - relation])
    far = distances(query, corrupt)
    weights = _weights(far, is_answer, config)
    beyond = far - config.margin
    loss = -functional.logsigmoid(config.margin - near).sum()
    loss -= (weights * functional.logsigmoid(beyond)).sum() / 2
    pull = gap * ((near - config.margin).sigmoid() / near)[:, None]
    # Of the loss by each distance, over the distance: how much query and negative move along it.
    push = weights.mul_(beyond.neg_().sigmoid_()).div_(far).mul_(-0.5)
    from_query = torch.addmm(query * push.sum(dim=1, keepdim=True), push, corrupt, alpha=-1)
    from_corrupt = torch.addmm(corrupt * push.sum(dim=0)[:, None], push.T, query, alpha=-1)
    tails, heads = from_query.chunk(2)
    return Gradients(loss, pull + tails, pull + tails - heads, heads - pull, from_corrupt)


def distances(query: Tensor, corrupt: Tensor) -> Tensor:
    """Between every two rows, (B, K), by one matrix product."""
    squares = query.square().sum(dim=1, keepdim=True) + corrupt.square().sum(dim=1)
    return torch.addmm(squares, query, corrupt.T, alpha=-2).clamp_min_(1e-12).sqrt_()


def _weights(far: Tensor, is_answer: Tensor, config: TransEConfig) -> Tensor:
    weights = (far * -config.temperature).masked_fill_(is_answer, -torch.inf)
    return weights.softmax(dim=1).nan_to_num_(0.0)


def _finish(
    entities: Tensor, relations: Tensor, triples: npt.NDArray[np.integer[Any]]
) -> TransEVectors:
    seen = torch.zeros(len(entities), dtype=torch.bool)
    seen[torch.from_numpy(np.unique(triples[:, [0, 2]]).astype(np.int64))] = True
    seen, total = seen.to(entities.device), 0.0
    for block, known in zip(torch.split(entities, _BLOCK), torch.split(seen, _BLOCK), strict=True):
        block *= known[:, None]
        total += float(block.float().norm(dim=1).sum())
    # One common factor keeps every comparison of distances.
    scale = int(seen.sum()) / total
    for block in torch.split(entities, _BLOCK):
        block *= scale
    return TransEVectors(entities.cpu().numpy(), (relations * scale).cpu().numpy())
