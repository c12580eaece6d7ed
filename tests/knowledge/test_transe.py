from pathlib import Path

import numpy as np
import pytest

from knowledge.errors import InvalidInputError
from knowledge.graph import KnowledgeGraph
from knowledge.ranking import evaluate
from knowledge.training import train_version
from knowledge.transe import TransEConfig, TransEVectors, fit, vector_of_new_entity

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


def test_a_new_entity_is_the_mean_of_what_its_facts_expect(found: TransEVectors) -> None:
    facts = ring()[ring()[:, 0] == 5]
    guess = vector_of_new_entity(found.relations[facts[:, 1]], found.entities[facts[:, 2]])
    nearest = np.linalg.norm(found.entities - guess, axis=1).argmin()
    assert nearest == 5
    with pytest.raises(InvalidInputError, match="at least one fact"):
        vector_of_new_entity(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))


def test_facts_that_end_in_a_new_entity_count_too() -> None:
    relations, tails = np.full((1, 2), 1.0, np.float32), np.full((1, 2), 3.0, np.float32)
    heads = np.full((1, 2), 5.0, np.float32)
    found = vector_of_new_entity(relations, tails, incoming=(relations, heads))
    np.testing.assert_array_equal(found, [4.0, 4.0])  # the mean of 3 - 1 and 5 + 1


@pytest.mark.parametrize("bad", [[[0, 2, 1]], [[20, 0, 1]], [[0, 0, -1]]])
def test_ids_out_of_range_are_refused(bad: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError, match="allowed is below"):
        fit(np.array(bad), 20, 2, SMALL)


@pytest.mark.parametrize("field", ["dimension", "epochs", "negatives", "margin"])
def test_a_size_of_zero_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{field} is 0"):
        TransEConfig(**{field: 0})


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
