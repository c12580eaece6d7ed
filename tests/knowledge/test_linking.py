import unicodedata
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledge.errors import InvalidInputError
from knowledge.graph import KnowledgeGraph
from knowledge.linking import Match, best_spans, normalise, normalise_plainly, weight


def keys(store: Path, text: str) -> list[str]:
    return [link.key for link in KnowledgeGraph.open(store).link(text)]


def test_links_carry_offsets_of_the_original_text(store: Path) -> None:
    text = "㎏ ＴＩＧＥＲ，e\u0301大虫🐯\ufe0f"
    links = KnowledgeGraph.open(store).link(text)
    assert [link.surface for link in links] == ["ＴＩＧＥＲ", "大虫", "🐯\ufe0f"]
    assert all(text[link.start : link.end] == link.surface for link in links)
    assert all(link.name == "老虎" for link in links)


def test_the_longest_reading_wins(store: Path) -> None:
    assert keys(store, "北京大学") == ["北京大学"]
    assert keys(store, "北京的大学") == ["北京", "大学"]


def test_the_candidate_with_the_highest_prior_is_chosen(store: Path) -> None:
    (link,) = KnowledgeGraph.open(store).link("苹果发布会")
    assert link.key == "苹果[公司]"
    assert link.score == pytest.approx(0.7, abs=1e-3)
    assert [candidate.key for candidate in link.candidates] == ["苹果[公司]", "苹果[水果]"]


def test_numbers_and_single_characters_never_win_alone(store: Path) -> None:
    assert keys(store, "虎年101") == []


def test_a_single_character_that_names_an_entity_is_linked(store: Path) -> None:
    assert keys(store, "一条龙") == ["龙"]


def test_a_surface_inside_a_latin_word_is_no_match(store: Path) -> None:
    assert keys(store, "tigers and xtiger") == []
    assert keys(store, "画tiger吧") == ["老虎"]


@pytest.mark.parametrize("text", ["", "   ", "\0", "\ud800老\udc00", "你好", "字" * 100_000])
def test_a_text_without_entities_gives_no_links(store: Path, text: str) -> None:
    assert keys(store, text) == []


def test_max_entities_keeps_the_heaviest_in_order_of_position(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    assert [link.key for link in graph.link("龙、北京大学、大学", 2)] == ["北京大学", "大学"]
    assert graph.link("龙", 0) == []
    with pytest.raises(InvalidInputError, match="max_entities is -1"):
        graph.link("龙", -1)


@settings(deadline=None, max_examples=60)
@given(
    st.text(
        st.sampled_from("老虎苹果北京大学龙龍 tigerＴ🐯\ufe0f\u0301ﾊﾞ㎏ﬁ\0\ud800\u200b가ᄀ\u1161")
    )
)
def test_spans_are_ordered_disjoint_and_inside_any_text(text: str) -> None:
    normal = normalise(text)
    assert len(normal.text) == len(normal.starts) == len(normal.ends)
    assert all(0 <= s < e <= len(text) for s, e in zip(normal.starts, normal.ends, strict=True))
    assert all(a <= b for a, b in pairwise(normal.starts))
    normal.text.encode("utf-8")
    # One table look-up a character comes to what reading character by character does.
    assert normal == normalise_plainly(text)
    assert normalise(text, simplify=False) == normalise_plainly(text, simplify=False)


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(categories=["L", "N", "P", "Z", "Mn"]), max_size=20))
def test_composed_and_decomposed_text_normalise_alike(text: str) -> None:
    once = normalise(unicodedata.normalize("NFC", text)).text
    assert unicodedata.normalize("NFC", once) == unicodedata.normalize(
        "NFC", normalise(unicodedata.normalize("NFD", text)).text
    )


spans = st.builds(
    lambda start, length, prior: Match(start, start + length, 0, prior),
    st.integers(0, 12),
    st.integers(1, 5),
    st.floats(0.0, 1.0, width=16),
)


def disjoint(matches: list[Match]) -> bool:
    ordered = sorted(matches, key=lambda match: match.start)
    return all(a.end <= b.start for a, b in pairwise(ordered))


@settings(deadline=None, max_examples=60)
@given(st.lists(spans, max_size=7))
def test_no_choice_of_disjoint_spans_weighs_more(matches: list[Match]) -> None:
    chosen = best_spans(matches)
    assert disjoint(chosen)
    choices = (list(c) for n in range(len(matches) + 1) for c in combinations(matches, n))
    best = max(sum(map(weight, choice)) for choice in choices if disjoint(choice))
    assert sum(map(weight, chosen)) == pytest.approx(best)
