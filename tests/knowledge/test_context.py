"""Linking by context: what the words around a name change, and what they never change."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest

from knowledge.builder import BuildOptions, build_version
from knowledge.context import evidence, profile, stands_alone
from knowledge.formats import read_facts
from knowledge.graph import KnowledgeGraph
from knowledge.linking import normal_text, normalise

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def gold_graph(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    facts = read_facts(DATA / "link_graph.csv", "ownthink")
    store = tmp_path_factory.mktemp("gold")
    how = BuildOptions(objects="subjects")
    return KnowledgeGraph.open(build_version(facts.triples, facts.aliases, store, options=how))


def keys(graph: KnowledgeGraph, text: str) -> list[str]:
    return [link.key for link in graph.link(text)]


def test_the_sentence_decides_between_meanings(gold_graph: KnowledgeGraph) -> None:
    assert keys(gold_graph, "李荣浩演唱李白") == ["李白[2013年李荣浩歌曲]"]
    assert keys(gold_graph, "唐代诗仙李白") == ["李白[唐代诗人]"]


def test_without_context_the_prior_decides(gold_graph: KnowledgeGraph) -> None:
    for link in gold_graph.link("李白"):
        assert link.candidates[0].entity == link.entity


def test_a_song_named_with_an_everyday_word_needs_support(gold_graph: KnowledgeGraph) -> None:
    assert keys(gold_graph, "温柔地看着远方") == []
    assert keys(gold_graph, "五月天演唱的温柔") == ["温柔[五月天演唱歌曲]"]
    assert keys(gold_graph, "画一张《温柔》") == ["温柔[五月天演唱歌曲]"]


def test_a_name_that_is_not_supported_is_told_as_unlinked(gold_graph: KnowledgeGraph) -> None:
    reading = gold_graph.read("温柔地看着远方")
    (left,) = [name for name in reading.unlinked if name.surface == "温柔"]
    assert (left.start, left.end, left.reason) == (0, 2, "below_threshold")
    assert "温柔[五月天演唱歌曲]" in [candidate.key for candidate in left.candidates]
    assert gold_graph.read("画一张《温柔》").unlinked == []


@pytest.mark.parametrize("text", ["一隻熊貓", "一只ｎ熊猫", "熊猫"])
def test_surfaces_are_cut_from_the_text_as_it_was_written(
    gold_graph: KnowledgeGraph, text: str
) -> None:
    (link,) = gold_graph.link(text)
    assert text[link.start : link.end] == link.surface
    assert normalise(link.surface).text == "熊猫"


def test_of_two_overlapping_names_the_head_stays(gold_graph: KnowledgeGraph) -> None:
    assert keys(gold_graph, "大红茶杯") == ["茶杯"]


@pytest.mark.parametrize(
    ("text", "alone"), [("一匹马跑", True), ("马路", False), ("白马。", True), ("骑马场", False)]
)
def test_a_single_character_is_a_word_where_it_is_counted_or_stands_alone(
    text: str, alone: bool
) -> None:
    start = text.index("马")
    assert stands_alone(text, start, start + 1) is alone


def test_links_are_disjoint_and_ordered_on_every_prompt(gold_graph: KnowledgeGraph) -> None:
    for line in (DATA / "link_gold.jsonl").read_text("utf-8").splitlines():
        text = json.loads(line)["text"]
        links = gold_graph.link(text, 50)
        assert all(first.end <= second.start for first, second in pairwise(links))
        assert all(0 < link.score <= 1 for link in links)


def test_a_version_with_traditional_names_still_finds_them(tmp_path: Path) -> None:
    version = build_version([("龍", "类型", "神兽"), ("长城", "在", "北方")], [], tmp_path)
    graph = KnowledgeGraph.open(version)
    assert keys(graph, "龍") == keys(graph, "龙") == ["龍"]
    assert keys(graph, "長城") == ["长城"]


def plain_evidence(text: str, start: int, end: int, facts: list[list[str]]) -> list[list[int]]:
    """(pairs, characters) that the sentence shares with one candidate's facts only, as sets."""
    rest, surface = f"{text[:start]} {text[end:]}", set(text[start:end])
    own = [{a + b for t in texts for a, b in pairwise(t) if (a + b).isalnum()} for texts in facts]
    here = {a + b for a, b in pairwise(rest) if a.isalnum() and b.isalnum()}
    found = [here & known for known in own]
    letters = [set("".join(known)) & (set(rest) - surface) for known in own]
    return [
        [len(sets[i].difference(*sets[:i], *sets[i + 1 :])) for sets in (found, letters)]
        for i in range(len(facts))
    ]


def test_pairs_and_characters_are_counted_as_sets_would(gold_graph: KnowledgeGraph) -> None:
    chance = random.Random(0)
    lines = (DATA / "link_gold.jsonl").read_text("utf-8").splitlines()
    prompts = [json.loads(line)["text"] for line in lines]
    for text in map(normal_text, prompts):
        facts = [chance.choices([*prompts, "a_b", "水", "茶 x1", ""], k=3) for _ in range(3)]
        facts = [["义", *map(normal_text, texts)] for texts in facts]
        known = [profile("苹果[义]", [("是", t) for t in texts[1:]]) for texts in facts]
        counts = evidence(text, 1, 3, known)
        plain = plain_evidence(text, 1, 3, facts)
        assert [[c.pair, c.character] for c in counts] == [[min(4, p), min(6, q)] for p, q in plain]
