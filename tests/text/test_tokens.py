"""Which pieces of a sentence a span reaches, and what is lost where it is cut."""

import pytest
import torch

from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.text.tokens import SPECIAL, EntitySpan, TextTokenizer

WORDS = [*SPECIAL, *"一只红色老虎苹果的，", "apple", "a", "##b", "##c", "é"]
VECTOR = torch.tensor([1.0, 2.0])


def tokenizer(length=12):
    return TextTokenizer.from_vocabulary(WORDS, length)


def reached(text, surface, length=12):
    """The positions that a span over `surface` gives its vector to."""
    start = text.index(surface)
    tokens = tokenizer(length)([text], [[EntitySpan(VECTOR, start, start + len(surface))]], 2)
    rows = tokens.entity_vectors[0]
    assert all(torch.equal(row, VECTOR) or not row.any() for row in rows)
    return rows.any(1).nonzero().flatten().tolist()


def test_a_sentence_lies_between_cls_and_sep_and_is_padded():
    tokens = tokenizer()(["红老虎"], [[]], 2)
    assert tokens.ids[0].tolist()[:6] == [2, 7, 9, 10, 3, 0]
    assert tokens.mask[0].tolist() == [True] * 5 + [False] * 7
    assert tokens.truncated == [None]
    assert not tokens.entity_vectors.any()


@pytest.mark.parametrize(
    ("text", "surface", "positions"),
    [
        ("一只老虎", "老虎", [3, 4]),
        ("一只 老虎", "老虎", [3, 4]),
        ("一只apple的", "apple", [3]),
        ("一只ABC的", "ABC", [3, 4, 5]),
        ("一只abc的", "b", [4]),  # part of a word: the piece that overlaps
        ("ＡＰＰＬＥ老虎", "ＡＰＰＬＥ", [1]),  # one unknown piece, offsets still right
        ("ＡＰＰＬＥ老虎", "老虎", [2, 3]),
        ("🐯🐯老虎", "老虎", [2, 3]),  # outside the basic plane: offsets count characters
        ("E\u0301老虎", "老虎", [2, 3]),  # the accent is stripped, the offsets stay
    ],
)
def test_a_span_reaches_exactly_the_pieces_that_overlap_it(text, surface, positions):
    assert reached(text, surface) == positions


def test_a_span_without_characters_reaches_the_whole_sentence_at_cls():
    tokens = tokenizer()(["老虎"], [[EntitySpan(VECTOR)]], 2)
    assert tokens.entity_vectors[0].any(1).nonzero().flatten().tolist() == [0]


def test_spans_that_overlap_add_up():
    spans = [EntitySpan(VECTOR, 0, 2), EntitySpan(VECTOR, 1, 2)]
    tokens = tokenizer()(["老虎"], [spans], 2)
    assert torch.equal(tokens.entity_vectors[0, 1:3], torch.stack([VECTOR, 2 * VECTOR]))


def test_a_cut_sentence_keeps_sep_and_says_its_first_lost_character():
    tokens = tokenizer(5)(["红 色老虎", "红色老"], [[], []], 2)
    assert tokens.ids.tolist() == [[2, 7, 8, 9, 3], [2, 7, 8, 9, 3]]
    assert tokens.truncated == [4, None]


def test_what_is_cut_off_gets_no_vector_and_gives_none_to_sep():
    assert reached("红色的老虎", "老虎", length=5) == []
    assert reached("红色老虎", "老虎", length=5) == [3]


def test_unknown_characters_are_unk_and_draw_no_error():
    tokens = tokenizer()(["龘☃\U0001f984"], [[]], 2)
    assert tokens.ids[0, 0] == 2
    assert set(tokens.ids[0, 1 : tokens.mask.sum() - 1].tolist()) == {1}


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("红色老虎", []),
        ("龘老虎龘靐", ["龘", "靐"]),
        ("一只Zebra", ["Zebra"]),  # a word of another script is one piece
        ("老虎" * 5 + "龘", []),  # cut off: `truncated` tells of it
    ],
)
def test_what_the_vocabulary_does_not_have_is_told_once_as_it_is_written(text, unknown):
    assert tokenizer()([text], [[]], 2).unknown == [unknown]


def test_what_an_entity_stands_for_is_not_unknown():
    tokens = tokenizer()(["龘靐", "龘"], [[EntitySpan(VECTOR, 0, 1)], []], 2)
    assert tokens.unknown == [["靐"], ["龘"]]


def test_a_sentence_of_100000_characters_is_cut_and_told():
    tokens = tokenizer()(["老" * 100_000], [[]], 2)
    assert tokens.truncated == [10]


def test_a_saved_tokenizer_comes_back(tmp_path):
    tokenizer().save(tmp_path)
    again = TextTokenizer.from_folder(tmp_path, 12)
    assert len(again) == len(WORDS)
    assert torch.equal(again(["红apple"], [[]], 2).ids, tokenizer()(["红apple"], [[]], 2).ids)


def test_cutting_and_padding_of_a_foreign_file_do_not_count(tmp_path):
    foreign = tokenizer().tokenizer
    foreign.enable_truncation(3)
    foreign.enable_padding(length=50)
    foreign.save(str(tmp_path / "tokenizer.json"))
    tokens = TextTokenizer.from_folder(tmp_path, 12)(["红色老虎"], [[]], 2)
    assert (tokens.mask.sum(), tokens.truncated) == (6, [None])


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"version": 1', b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TextTokenizer.from_folder(tmp_path, 12)
