from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from knowledge.errors import InvalidInputError
from knowledge.graph import KnowledgeGraph
from knowledge.ranking import evaluate
from knowledge.training import train_version
from knowledge.transe import (
    TransEConfig,
    TransEVectors,
    fit,
    gradients,
    rounded,
)

SMALL = TransEConfig(dimension=16, epochs=120, batch_size=16, negatives=8, margin=1.0)


def ring(size: int = 20) -> np.ndarray:
    """Relation 0 goes one place on, relation 1 goes two: learnable, and full of distractors."""
    places = np.arange(size - 2)
    steps = [np.stack([places, np.full_like(places, s - 1), places + s], axis=1) for s in (1, 2)]
    return np.concatenate(steps).astype(np.int64)


@pytest.fixture(scope="module")
def found() -> TransEVectors:
    """Vectors of the ring, and of five entities that no triple knows."""
    return fit(ring(), 25, 2, SMALL)


def test_true_triples_rank_above_corrupted_ones(found: TransEVectors) -> None:
    triples = ring()
    ranking = evaluate(found.entities[:20], found.relations, triples, triples)
    assert ranking.mrr > 0.8  # chance is about 0.2
    corrupted = triples.copy()
    corrupted[:, 2] = (corrupted[:, 2] + 7) % 20
    assert distances(found, triples).max() < distances(found, corrupted).mean()


def distances(found: TransEVectors, triples: np.ndarray) -> np.ndarray:
    heads, tails = found.entities[triples[:, 0]], found.entities[triples[:, 2]]
    return np.linalg.norm(heads + found.relations[triples[:, 1]] - tails, axis=1)


def test_one_seed_gives_one_result_and_another_another() -> None:
    config = TransEConfig(dimension=8, epochs=3, batch_size=8, negatives=4)
    first, second = fit(ring(), 20, 2, config), fit(ring(), 20, 2, config)
    np.testing.assert_array_equal(first.entities, second.entities)
    np.testing.assert_array_equal(first.relations, second.relations)
    other = fit(ring(), 20, 2, TransEConfig(8, 3, 8, 4, seed=1))
    assert not np.array_equal(first.entities, other.entities)


def test_entities_have_mean_norm_one_and_unseen_ones_are_zero(found: TransEVectors) -> None:
    assert np.linalg.norm(found.entities[:20], axis=1).mean() == pytest.approx(1.0, abs=1e-5)
    assert not found.entities[20:].any()


@pytest.mark.parametrize("bad", [[[0, 2, 1]], [[20, 0, 1]], [[0, 0, -1]]])
def test_ids_out_of_range_are_refused(bad: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError, match="allowed is below"):
        fit(np.array(bad), 20, 2, SMALL)


@pytest.mark.parametrize("field", ["dimension", "epochs", "negatives", "margin"])
def test_a_size_of_zero_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{field} is 0"):
        replace(SMALL, **{field: 0})  # type: ignore[arg-type]


def test_the_filtered_rank_leaves_out_other_true_answers_and_halves_ties() -> None:
    entities = np.array([[0.0], [1.0], [1.2], [9.0]], np.float32)
    relations = np.array([[1.1]], np.float32)
    test, known = np.array([[0, 0, 2]]), np.array([[0, 0, 1]])
    assert evaluate(entities, relations, test, known).hits[1] == 1.0
    flat = evaluate(np.zeros((3, 1), np.float32), relations, np.array([[0, 0, 1]]), test[:0])
    assert flat.mrr == pytest.approx(1 / 2.0)  # three equal distances: rank (1 + 3) / 2


def test_training_a_store_gives_a_new_active_version_with_vectors(store: Path) -> None:
    before = KnowledgeGraph.open(store)
    path = train_version(store, TransEConfig(dimension=8, epochs=2))
    after = KnowledgeGraph.open(store, verify="full")
    assert after.path == path
    assert after.path != before.path
    assert after.dimension == 8
    assert after.vectors([after.entity("老虎")]).any()


def plain_loss(parts: list[Tensor], is_answer: Tensor, config: TransEConfig) -> Tensor:
    """The self-adversarial loss as the paper writes it, summed over heads and tails."""
    head, relation, tail, corrupt = parts
    near = torch.linalg.vector_norm(head + relation - tail, dim=1)
    far = torch.cdist(torch.cat([head + relation, tail - relation]), corrupt)
    share = (-config.temperature * far.detach()).masked_fill(is_answer, -torch.inf).softmax(dim=1)
    push = share.nan_to_num(0.0) * functional.logsigmoid(far - config.margin)
    return -functional.logsigmoid(config.margin - near).sum() - push.sum() / 2


def test_the_written_gradients_are_those_of_the_plain_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4), (6, 4), (6, 4), (5, 4))
    parts = [torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes]
    is_answer = torch.rand(12, 5, generator=generator) < 0.2
    is_answer[3] = True  # no negative left
    config = TransEConfig(dimension=4, margin=1.0, temperature=2.0)
    wanted = plain_loss([part.requires_grad_() for part in parts], is_answer, config)
    slopes = torch.autograd.grad(wanted, parts)
    head, relation, tail, corrupt = (part.detach() for part in parts)
    found = gradients(head, relation, tail, corrupt, is_answer, config)
    torch.testing.assert_close(found.loss, wanted.detach())
    for own, slope in zip(found[1:], slopes, strict=True):
        torch.testing.assert_close(own, slope)


def test_chance_rounds_to_a_neighbour_and_keeps_the_mean() -> None:
    value = 0.3 + 0.3 * 2**-12  # a good part of the way between two float16 numbers
    rows = rounded(torch.full((1, 100_000), value), torch.Generator().manual_seed(0))
    assert len(torch.unique(rows)) == 2
    assert rows.double().mean().item() == pytest.approx(value, abs=2e-6)


def test_half_the_memory_ranks_as_well() -> None:
    triples = ring()
    half = fit(triples, 25, 2, replace(SMALL, precision="float16"))
    assert half.entities.dtype == np.float16
    assert not half.entities[20:].any()
    entities = half.entities[:20].astype(np.float32)
    assert evaluate(entities, half.relations, triples, triples).mrr > 0.8
    with pytest.raises(InvalidInputError, match="precision is 'int8'"):
        replace(SMALL, precision="int8")  # type: ignore[arg-type]
