"""The gold set is what it claims to be: sizes, offsets, known entities, a split by surface."""

import csv
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def gold() -> list[dict]:
    lines = (DATA / "link_gold.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def entities() -> set[str]:
    with (DATA / "link_graph.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows[0] == ["实体", "属性", "值"]
    return {subject for subject, relation, _ in rows[1:] if relation != "歧义关系"}


def ambiguous(entities: set[str]) -> set[str]:
    senses = defaultdict(set)
    for entity in entities:
        senses[re.sub(r"\[.*\]$", "", entity)].add(entity)
    return {name for name, keys in senses.items() if len(keys) > 1}


def test_the_gold_set_is_as_large_as_it_must_be(gold, entities):
    used = {link["surface"] for row in gold for link in row["links"]}
    assert len(gold) >= 240
    assert sum(not row["links"] for row in gold) >= 40
    assert len(entities) >= 1500
    assert len(used & ambiguous(entities)) >= 80


def test_every_link_lies_in_its_text_and_names_an_entity_of_the_graph(gold, entities):
    for row in gold:
        end = 0
        for link in row["links"]:
            assert end <= link["start"] < link["end"] <= len(row["text"])
            assert row["text"][link["start"] : link["end"]] == link["surface"]
            assert link["entity"] in entities
            end = link["end"]


def test_no_ambiguous_surface_is_in_both_halves(gold, entities):
    halves = defaultdict(set)
    for row in gold:
        for link in row["links"]:
            halves[link["surface"]].add(row["split"])
    assert [name for name in ambiguous(entities) if len(halves[name]) > 1] == []


def test_no_prompt_is_there_twice(gold):
    assert len({row["text"] for row in gold}) == len(gold)


def test_a_tenth_of_the_prompts_has_a_second_annotation(gold, entities, benchmark_script):
    lines = (DATA / "link_gold_second.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {row["id"]: row["text"] for row in gold}
    for row in map(json.loads, lines):
        assert texts[row["id"]] == row["text"]
        for link in row["links"]:
            assert row["text"][link["start"] : link["end"]] == link["surface"]
            assert link["entity"] in entities
    found = benchmark_script("linking").agreement()
    assert found["prompts"] >= len(gold) / 10
    assert found["mention_f1"] == 0.9744
    assert found["same_entity"] == 1.0
