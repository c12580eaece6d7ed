"""Who goes first where there are more rows than a call has, and what becomes of those who wait."""

import gc
import weakref

import pytest
import torch

from rapid_diffusion.denoising.engine import Engine, Guidance, RowRequest, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.text.encoder import TextStates

SHAPE = (2, 3, 3)


def sentence(value):
    return TextStates(torch.full((2, 1), value), torch.ones(2, dtype=torch.bool))


def request(seed, steps, sampler="flow_euler"):
    """A guided picture: it takes both rows of an engine of two."""
    table = SAMPLERS[sampler](steps, 1.0)
    guidance = Guidance(2.0, sentence(-1.0))
    return RowRequest(row_noise(seed, SHAPE), sentence(1.0), table, guidance, seed)


def follow_text(rows, timesteps, hidden, mask):
    """A field that the sentence pulls on."""
    return torch.sin(rows + timesteps[:, None, None, None]) - hidden[:, :1, :, None]


def alone(asked):
    engine = Engine(follow_text, 2)
    ticket = engine.submit(asked)
    engine.run()
    return ticket.latents


def test_who_finds_no_row_waits_for_one_in_order():
    engine = Engine(follow_text, rows=2)
    tickets = [engine.submit(request(seed, steps=2)) for seed in range(3)]
    engine.step()
    assert [ticket.step for ticket in tickets] == [1, 0, 0]
    engine.run()
    assert all(torch.equal(t.latents, alone(t.request)) and t.error is None for t in tickets)


def test_a_short_one_overtakes_a_long_one_which_goes_on_where_it_was():
    engine = Engine(follow_text, rows=2)
    long = engine.submit(request(0, steps=30, sampler="dpmpp_2m_sde"))
    for _ in range(9):
        engine.step()
    short = engine.submit(request(1, steps=4))
    for _ in range(4):
        engine.step()
    assert (short.done, long.step) == (True, 9)
    engine.run()
    assert torch.equal(long.latents, alone(long.request))
    assert torch.equal(short.latents, alone(short.request))


def test_a_long_one_does_not_wait_for_ever_for_those_who_want_little():
    engine, steps = Engine(follow_text, rows=2), 0
    long = engine.submit(request(0, steps=30))
    while not long.done:
        if steps % 2 == 0:  # as many as there is room for
            engine.submit(request(1, steps=2))
        engine.step()
        steps += 1
    assert 120 < steps < 240


def test_an_error_ends_who_was_in_the_call_and_not_who_is_paused():
    fails = []

    def failing(*inputs):
        if fails:
            raise fails.pop()
        return follow_text(*inputs)

    engine = Engine(failing, rows=2)
    paused = engine.submit(request(0, steps=30))
    engine.step()
    hurt = engine.submit(request(1, steps=4))
    fails.append(MemoryError("full"))
    with pytest.raises(MemoryError) as raised:
        engine.step()
    engine.fail(raised.value)
    assert (hurt.error, paused.done) == (raised.value, False)
    engine.run()
    assert torch.equal(paused.latents, alone(paused.request))


def test_an_idle_engine_keeps_nothing_of_its_last_rows():
    engine = Engine(follow_text, rows=2)
    last = weakref.ref(engine.submit(request(0, steps=2)))
    engine.run()
    gc.collect()
    assert last() is None
