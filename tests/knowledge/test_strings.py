"""Columns of byte strings do in numpy what Python does one by one."""

import random

import numpy as np
import pytest

from knowledge.strings import Strings, distinct, sort_strings


def made(count: int) -> list[bytes]:
    """Strings of 0 to 1,300 bytes, many with equal beginnings, many equal."""
    chance = random.Random(count)
    texts = [bytes(chance.choices(b"\1ab\xe4", k=chance.choice([0, 1, 3, 7, 8, 9, 16, 25])))]
    for _ in range(count - 1):
        size = chance.choice([0, 1, 2, 7, 8, 9, 15, 16, 17, 40, 511, 512, 520, 521, 1300])
        start = chance.choice([b"", chance.choice(texts), b"a" * size])
        texts.append((start + bytes(chance.choices(b"\1ab\xe4", k=size)))[:size])
    return texts


@pytest.mark.parametrize("count", [1, 2, 40, 700])
def test_rows_in_any_order_are_copied_exactly(count: int) -> None:
    texts = made(count)
    rows = np.random.default_rng(count).integers(0, count, 2 * count)
    chosen = Strings.of(texts).take(rows)
    assert chosen.tobytes() == b"".join(texts[row] for row in rows.tolist())
    assert list(chosen.compact()) == list(chosen) == [texts[row] for row in rows.tolist()]


@pytest.mark.parametrize("count", [1, 2, 40, 700])
def test_sorting_and_numbering_are_those_of_python(count: int) -> None:
    texts = made(count)
    order, new = sort_strings(Strings.of(texts))
    assert [texts[row] for row in order.tolist()] == sorted(texts)
    assert int(new.sum()) == len(set(texts))
    different, codes = distinct(Strings.of(texts))
    assert list(different) == sorted(set(texts))
    assert [different[code] for code in codes.tolist()] == texts


def test_no_string_at_all_is_fine() -> None:
    empty = Strings.of([b"a", b"b"]).take(slice(0, 0))
    assert (empty.tobytes(), list(empty), len(empty.compact())) == (b"", [], 0)
