"""A gate: one key at a time, first come first served, everything put back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rapid_diffusion import CanceledError, Cancellation
from rapid_diffusion.gate import Gate


class Thing:
    """Is in one state at a time, and notes in which."""

    def __init__(self):
        self.state, self.log, self.gate = None, [], Gate()

    def entered(self, key):
        def change():
            assert self.state is None
            self.state = key
            self.log.append(key)
            return undo

        def undo():
            self.state = None

        return self.gate.entered(key, change)


def in_line(thing, count):
    while len(thing.gate._line) < count:
        time.sleep(0.001)


def test_those_of_one_key_are_in_together_and_nobody_overtakes():
    thing, together = Thing(), threading.Barrier(2, timeout=60)

    def visit(key, wait):
        with thing.entered(key):
            assert thing.state == key
            if wait:
                together.wait()

    with ThreadPoolExecutor(4) as pool, thing.entered("a"):
        visits = [pool.submit(visit, "b", wait=False)]
        in_line(thing, 1)
        visits += [pool.submit(visit, "a", wait=True)]  # not before b, though a is inside
        in_line(thing, 2)
        visits += [pool.submit(visit, "a", wait=True)]
        in_line(thing, 3)
        assert thing.log == ["a"]
    assert [visit.result(60) for visit in visits] == [None] * 3
    assert thing.log == ["a", "b", "a"]
    assert thing.state is None


def test_a_change_that_fails_lets_the_next_one_in():
    thing = Thing()

    def fail():
        raise MemoryError

    with pytest.raises(MemoryError), thing.gate.entered("a", fail):
        raise AssertionError("inside")
    with thing.entered("b"):
        assert thing.state == "b"


def test_a_thread_that_is_inside_comes_in_again_with_the_same_key_only():
    thing = Thing()
    with thing.entered("a"), thing.entered("a"):
        with pytest.raises(RuntimeError, match="same adapter"), thing.entered("b"):
            raise AssertionError("inside")
        assert thing.state == "a"
    assert (thing.state, thing.log) == (None, ["a"])


def test_who_waits_can_be_canceled_and_the_next_in_line_moves_up():
    thing, cancellation = Thing(), Cancellation()

    def visit(key):
        with cancellation.watching(), thing.entered(key):
            raise AssertionError("inside")

    def follow():
        with thing.entered("a"):
            return thing.state

    with ThreadPoolExecutor(2) as pool, thing.entered("a"):
        waiting = pool.submit(visit, "b")
        in_line(thing, 1)
        following = pool.submit(follow)
        in_line(thing, 2)
        cancellation.cancel()
        with pytest.raises(CanceledError):
            waiting.result(60)
        assert following.result(60) == "a"
