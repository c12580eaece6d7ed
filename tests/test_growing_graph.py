"""The shipped model draws what its graph has learned since: no weight is trained again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from knowledge.builder import build_version
from knowledge.carrying import carry_vectors
from knowledge.checking import Alias
from knowledge.graph import KnowledgeGraph
from rapid_diffusion import RapidDiffusionPipeline

# What a drawing may show, all of it things that the model has learned to draw; the judge is its own
# contrastive pair.
THINGS = ("蝴蝶", "老虎", "蛋糕", "熊猫", "向日葵", "香蕉", "蜗牛", "汉堡包")
STYLE = "三维立体风格的"


def aliases(graph: KnowledgeGraph) -> Iterator[Alias]:
    """Everything that a graph has names for, which the shipped folder holds in no other form."""
    for name in {graph.name(entity) for entity in range(len(graph))}:
        for link in graph.link(name):
            if link.surface == name:
                yield from ((name, c.key, c.prior) for c in link.candidates)


@pytest.fixture(scope="module")
def pipes(tmp_path_factory) -> tuple[RapidDiffusionPipeline, RapidDiffusionPipeline]:
    """The shipped pipeline, and the same with an alias of the tiger and a new kind of butterfly."""
    pipe = RapidDiffusionPipeline.from_pretrained("emoji-zh")
    old = pipe.model.graph
    facts = [
        (old.key(fact.subject), fact.relation, old.key(fact.object))
        for entity in range(len(old))
        for fact in old.neighbours(entity, limit=1000)
    ]
    butterfly = old.link("蝴蝶")[0].entity
    facts += [
        ("磁悬浮号", fact.relation, old.key(fact.object)) for fact in old.neighbours(butterfly)
    ]
    names = {old.key(entity): old.name(entity) for entity in range(len(old))}
    said = [*aliases(old), ("山君", old.link("老虎")[0].key, 1.0)]
    store = Path(tmp_path_factory.mktemp("graph"))
    carry_vectors(build_version(facts, said, store, names=names), old.path)
    return pipe, pipe.with_knowledge(store)


def shown(pipe: RapidDiffusionPipeline, name: str) -> str:
    """Which of THINGS a drawing of `name` shows."""
    drawn = pipe(STYLE + name, seed=0, num_inference_steps=8, upscale=1).images[0]
    sentences = [STYLE + thing for thing in THINGS]
    return THINGS[int(pipe.score([drawn] * len(THINGS), sentences).argmax())]


@pytest.mark.parametrize(("name", "thing"), [("山君", "老虎"), ("磁悬浮号", "蝴蝶")])
def test_an_alias_and_a_new_entity_with_facts_only_change_the_picture(pipes, name, thing) -> None:
    before, after = pipes
    assert shown(after, name) == thing
    assert shown(before, name) != thing
