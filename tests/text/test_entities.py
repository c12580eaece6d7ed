"""From a sentence to spans with vectors: found links, and entities that a caller names."""

import pytest
import torch

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.text.entities import EntityWeight, graph_vectors, links_of, spans_of


@pytest.fixture(scope="module")
def graph(micro_pipeline):
    return micro_pipeline.graph


def test_links_of_a_sentence_carry_offsets_of_its_characters(graph):
    text = "一个大虫，ok，红苹果"
    links = [link for link, weight in links_of(graph, text, True)]
    assert [(link.surface, link.key) for link in links] == [("大虫", "老虎"), ("红苹果", "红苹果")]
    assert all(text[link.start : link.end] == link.surface for link in links)


def test_without_knowledge_or_graph_there_are_no_links(graph):
    assert links_of(graph, "老虎", False) == links_of(None, "老虎", True) == []
    assert links_of(graph, "老虎", []) == []


@pytest.mark.parametrize(
    ("wish", "span"),
    [
        (EntityWeight("红苹果", 0.5), (2, 5)),  # its name is in the sentence
        (EntityWeight("老虎"), (0, 0)),  # it is not: the sentence as a whole
        (EntityWeight("老虎", 2, 0, 1), (0, 1)),
    ],
)
def test_a_named_entity_goes_where_it_was_asked_to(graph, wish, span):
    ((link, weight),) = links_of(graph, "一个红苹果", [wish])
    assert (link.start, link.end) == span
    assert (link.key, weight) == (wish.entity, wish.weight)


def test_spans_hold_unit_vectors_times_the_weight(graph):
    wishes = [EntityWeight("老虎", 0.5), EntityWeight("猫", 2.0, 0, 1), EntityWeight("猫", 0.0)]
    spans = spans_of(graph, links_of(graph, "一个画", wishes))
    assert [(span.start, span.end) for span in spans] == [(None, None), (0, 1), (None, None)]
    lengths = torch.stack([span.vector.norm() for span in spans])
    assert torch.allclose(lengths, torch.tensor([0.5, 2.0, 0.0]))
    assert torch.allclose(graph_vectors(graph)[graph.entity("老虎")] * 0.5, spans[0].vector)
    assert not graph_vectors(graph)[-1].any()


@pytest.mark.parametrize(
    "wishes",
    [
        [EntityWeight("不存在")],
        [EntityWeight(10_000)],
        [EntityWeight(1.5)],
        [EntityWeight("猫", 2.1)],
        [EntityWeight("猫", -0.1)],
        [EntityWeight("猫", float("nan"))],
        [EntityWeight("猫", "1")],
        [EntityWeight("猫", True)],
        [EntityWeight("猫", 1.0, 0, 4)],
        [EntityWeight("猫", 1.0, 2, 2)],
        [EntityWeight("猫", 1.0, -1, 2)],
        [EntityWeight("猫", 1.0, 1, None)],
        [EntityWeight("猫", 1.0, "0", "1")],
        ["猫"],
        "猫",
        None,
        1,
    ],
)
def test_what_cannot_be_done_with_knowledge_is_refused_by_that_name(graph, wishes):
    with pytest.raises(InvalidRequestError) as caught:
        links_of(graph, "一个画", wishes)
    assert caught.value.field == "knowledge"


def test_naming_an_entity_without_a_graph_is_an_error():
    with pytest.raises(InvalidRequestError, match="no entity vectors"):
        links_of(None, "老虎", [EntityWeight("老虎")])
