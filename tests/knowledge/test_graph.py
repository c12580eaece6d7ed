import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from knowledge.builder import add_vectors, build_version
from knowledge.errors import InvalidInputError, UnknownEntityError
from knowledge.graph import KnowledgeGraph


def test_keys_and_ids_go_both_ways_in_sorted_order(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    keys = [graph.key(entity) for entity in range(len(graph))]
    assert keys == sorted(keys)
    assert [graph.entity(key) for key in keys] == list(range(len(graph)))
    assert graph.entity(3) == 3
    assert graph.name(graph.entity("苹果[公司]")) == "苹果"


@pytest.mark.parametrize("unknown", ["没有", "", "\ud800", -1, 10_000])
def test_an_unknown_entity_is_an_error_that_names_it(store: Path, unknown: str | int) -> None:
    with pytest.raises(UnknownEntityError) as raised:
        KnowledgeGraph.open(store).entity(unknown)
    assert raised.value.entity == unknown


def test_a_graph_that_nobody_holds_is_gone_without_a_search_for_circles(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    assert graph.link("大虫和苹果手机")
    gone = weakref.ref(graph)
    gc.disable()
    try:
        del graph
        assert gone() is None
    finally:
        gc.enable()


def test_neighbours_are_the_facts_of_a_subject(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    facts = {(t.relation, t.text, t.object) for t in graph.neighbours("苹果[水果]")}
    assert facts == {("颜色", "红色", graph.entity("红色")), ("英文名", "apple", -1)}
    assert [t.text for t in graph.neighbours("老虎", "颜色")] == ["橙色"]
    assert graph.neighbours("老虎", "没有的关系") == []
    assert graph.neighbours("橙色") == []
    assert len(graph.neighbours("老虎", limit=1)) == 1
    with pytest.raises(InvalidInputError, match="limit is -1"):
        graph.neighbours("老虎", limit=-1)


def test_triples_are_all_facts_between_entities(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    rows = [(graph.key(h), graph.relations[r], graph.key(t)) for h, r, t in graph.triples()]
    assert len(rows) == graph.stats["triples"] - 1  # the English name is a text
    assert ("北京大学", "位于", "北京") in rows


def test_no_entity_has_a_row_of_zeros(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    graph = KnowledgeGraph.open(add_vectors(graph.path, np.ones((len(graph), 4), np.float32)))
    np.testing.assert_array_equal(graph.vectors([-1, 2]), [[0] * 4, [1] * 4])
    assert graph.vectors([]).shape == (0, 4)
    for outside in (-2, len(graph)):
        with pytest.raises(UnknownEntityError):
            graph.vectors([0, outside])


def test_an_untrained_graph_has_vectors_of_dimension_zero(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    assert graph.dimension == 0
    assert graph.vectors([0, -1]).shape == (2, 0)


def test_a_graph_without_facts_opens(tmp_path: Path) -> None:
    build_version([], [("小猫", "cat", None)], tmp_path)
    graph = KnowledgeGraph.open(tmp_path)
    assert [link.key for link in graph.link("一只小猫")] == ["cat"]
    assert graph.triples().shape == (0, 3)
    assert graph.neighbours("cat") == []


def test_a_relation_may_hold_a_unicode_line_separator(tmp_path: Path) -> None:
    build_version([("甲", "是\u2028不是", "乙"), ("甲", "有", "丙")], [], tmp_path)
    assert KnowledgeGraph.open(tmp_path).relations == ["是\u2028不是", "有"]
