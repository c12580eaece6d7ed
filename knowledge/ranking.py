"""Link prediction, filtered (Bordes et al. 2013): how high the true entity ranks."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knowledge.errors import InvalidInputError

Floats = npt.NDArray[np.float32]
Triples = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Over `count` questions (head and tail of every test triple): mean 1/rank, Hits@k."""

    mrr: float
    hits: dict[int, float]
    count: int


def evaluate(entities: Floats, relations: Floats, test: Triples, known: Triples) -> Ranking:
    """Rank the true tail and the true head of each test triple among all entities.

    entities (E, d), relations (R, d), test and known (n, 3). Answers in `known` or `test` other
    than the one asked for are left out of the ranking. Ties count half ("realistic" rank).
    """
    if not len(test):
        raise InvalidInputError("there are no test triples to rank; got 0, wanted 1 or more")
    everything = np.concatenate([known, test])
    tails = _ranks(entities, relations, test, _answers(everything, 0, 2), 1)
    heads = _ranks(entities, relations, test[:, ::-1], _answers(everything, 2, 0), -1)
    ranks = np.concatenate([tails, heads])
    hits = {k: float((ranks <= k).mean()) for k in (1, 3, 10)}
    return Ranking(float((1 / ranks).mean()), hits, len(ranks))


def _answers(triples: Triples, given: int, asked: int) -> dict[tuple[int, int], list[int]]:
    answers: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in triples:
        answers[int(row[given]), int(row[1])].append(int(row[asked]))
    return answers


def _ranks(
    entities: Floats,
    relations: Floats,
    questions: Triples,
    answers: dict[tuple[int, int], list[int]],
    sign: int,
) -> npt.NDArray[np.float64]:
    """Questions (n, 3) of given, relation, asked; the query is given + sign * relation."""
    ranks = np.empty(len(questions))
    squares = (entities**2).sum(axis=1)
    for i, (given, relation, asked) in enumerate(questions):
        query = entities[given] + sign * relations[relation]
        distances = squares - 2 * (entities @ query)  # the query's own square changes no order
        own = distances[asked]
        distances[answers[int(given), int(relation)]] = np.inf
        ranks[i] = 1 + (distances < own).sum() + (distances == own).sum() / 2
    return ranks
