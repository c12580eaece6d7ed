"""A graph may grow without being trained again: known entities keep their vectors."""

from pathlib import Path

import numpy as np
import pytest

from knowledge.builder import add_vectors, build_version
from knowledge.carrying import carry_vectors
from knowledge.cli import main
from knowledge.errors import InvalidInputError
from knowledge.graph import KnowledgeGraph

FACTS = [("老虎", "属于", "猫科"), ("老虎", "颜色", "橙色"), ("狮子", "属于", "猫科")]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    plain = build_version(FACTS, [], tmp_path)
    rows = np.arange(4 * 2, dtype=np.float32).reshape(4, 2)
    return add_vectors(plain, rows, np.array([[0.5, 0.0], [0.0, 0.25]], np.float32))


def test_known_entities_keep_their_vectors_and_new_ones_are_what_their_facts_expect(
    trained: Path,
) -> None:
    old = KnowledgeGraph.open(trained)
    facts = [
        ("豹", "属于", "猫科"),
        ("豹", "怕", "老虎"),
        ("狮子", "颜色", "豹"),
        ("云", "在", "天"),
    ]
    larger = build_version([*FACTS, *facts], [("大虫", "老虎", 1.0)], trained.parent)
    graph = KnowledgeGraph.open(carry_vectors(larger, trained), verify="full")
    for key in ("老虎", "猫科", "橙色", "狮子"):
        np.testing.assert_array_equal(
            graph.vectors([graph.entity(key)]), old.vectors([old.entity(key)])
        )
    cats, lion = old.vectors([old.entity("猫科"), old.entity("狮子")])
    belongs, colour = [0.5, 0.0], [0.0, 0.25]  # sorted: 属于, 颜色; nobody knows 怕
    expected = ((cats - belongs) + (lion + colour)) / 2
    np.testing.assert_allclose(graph.vectors([graph.entity("豹")])[0], expected)
    assert not graph.vectors([graph.entity("云")]).any()
    (link,) = graph.link("大虫")
    np.testing.assert_array_equal(graph.vectors([link.entity]), old.vectors([old.entity("老虎")]))


def test_a_version_without_vectors_has_none_to_keep(tmp_path: Path) -> None:
    plain = build_version(FACTS, [], tmp_path)
    with pytest.raises(InvalidInputError, match="no vectors to keep"):
        carry_vectors(plain, plain)


def test_a_build_keeps_the_vectors_of_its_store_if_asked(tmp_path: Path) -> None:
    path, store = tmp_path / "facts.csv", tmp_path / "store"
    build = ["build", str(path), "--format", "ownthink", "--out", str(store)]
    path.write_text("实体,属性,值\n老虎,吃,羊\n羊,吃,草\n", "utf-8")
    assert main(build) == 0
    assert main(["train", str(store), "--dimension", "4", "--epochs", "1"]) == 0
    before = KnowledgeGraph.open(store)
    path.write_text("实体,属性,值\n老虎,吃,羊\n羊,吃,草\n老虎,别名,大虫\n", "utf-8")
    assert main([*build, "--keep-vectors"]) == 0
    after = KnowledgeGraph.open(store)
    (link,) = after.link("大虫")
    np.testing.assert_array_equal(
        after.vectors([link.entity]), before.vectors([before.entity("老虎")])
    )
