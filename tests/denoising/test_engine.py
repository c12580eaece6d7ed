"""Rows of many requests in one batch: the same bits, cancels, previews, errors of one row alone."""

import random
import threading
from dataclasses import replace

import pytest
import torch

from rapid_diffusion.denoising.engine import Engine, Guidance, RowRequest, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.errors import CanceledError, InvalidRequestError, NumericalError
from rapid_diffusion.text.encoder import TextStates

SHAPE = (2, 3, 3)
POISON = 99.0


def sentence(value, length=2, width=1):
    return TextStates(torch.full((length, width), value), torch.ones(length, dtype=torch.bool))


def request(seed=0, value=1.0, steps=4, sampler="flow_euler", guidance=None):
    states = guidance and Guidance(guidance, sentence(-1.0))
    table = SAMPLERS[sampler](steps, 1.0)
    return RowRequest(row_noise(seed, SHAPE), sentence(value), table, states, seed)


def follow_text(rows, timesteps, hidden, mask):
    """A field that the sentence pulls on."""
    return torch.sin(rows + timesteps[:, None, None, None]) - hidden[:, :1, :, None]


def spoil(rows, timesteps, hidden, mask):
    """The same, but NaN where the sentence is poison."""
    poisoned = hidden[:, :1, :, None] == POISON
    return torch.where(poisoned, torch.nan, follow_text(rows, timesteps, hidden, mask))


class SpoilInHalf(torch.nn.Module):
    """The same, but NaN only while its weight is in half precision."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))

    def forward(self, *arguments):
        half = self.weight.dtype == torch.bfloat16
        return (spoil if half else follow_text)(*arguments) * self.weight.float()


def alone(asked, rows=8, denoiser=follow_text):
    engine = Engine(denoiser, rows)
    ticket = engine.submit(asked)
    engine.run()
    return ticket.latents


def count_rows(calls, denoiser=follow_text):
    """The same denoiser, writing down how many rows each call had."""

    def counting(rows, *others):
        calls.append(len(rows))
        return denoiser(rows, *others)

    return counting


def fail_once(fails):
    """The same denoiser; each of `fails` is raised by one call."""

    def failing(*inputs):
        if fails:
            raise fails.pop()
        return follow_text(*inputs)

    return failing


def micro_requests(denoiser):
    """Every sampler, guided and not, with other steps."""
    generator = torch.Generator().manual_seed(1)
    shape = (denoiser.channels, 4, 4)
    asked = []
    for seed, (name, guided) in enumerate((n, g) for n in sorted(SAMPLERS) for g in (0, 1)):
        hidden = torch.randn(2, 16, denoiser.text_width, generator=generator)
        mask = torch.arange(16) < torch.tensor([[3 + seed], [2]])
        states, negative = map(TextStates, hidden, mask)
        guidance = Guidance(1.5 + seed, negative) if guided else None
        table = SAMPLERS[name](1 + seed % 4, 1.0)
        asked.append(RowRequest(row_noise(seed, shape), states, table, guidance, seed))
    return asked


def test_200_random_co_batches_give_the_same_bits(micro_pipeline):
    denoiser, chance = micro_pipeline.model.denoiser, random.Random(0)
    asked = micro_requests(denoiser)
    expected = [alone(one, 8, denoiser).numpy().tobytes() for one in asked]
    assert len(set(expected)) == len(asked)
    engine, tickets, together = Engine(denoiser, rows=8), [], 0
    while len(tickets) < 200 or engine.busy:
        under_way = [ticket for _, ticket in tickets if not ticket.done]
        for _ in range(chance.randint(3, 6) - len(under_way) if len(tickets) < 200 else 0):
            place = chance.randrange(len(asked))
            tickets.append((place, engine.submit(asked[place])))
        together += len([1 for _, ticket in tickets if not ticket.done]) >= 3
        engine.step()
    assert together > 50
    different = [place for place, t in tickets if t.latents.numpy().tobytes() != expected[place]]
    assert different == []


def test_with_fit_a_picture_is_the_same_but_for_rounding(micro_pipeline):
    denoiser = micro_pipeline.model.denoiser
    asked = micro_requests(denoiser)
    engine = Engine(denoiser, "fit")
    tickets = [engine.submit(one) for one in asked]
    engine.run()
    for one, ticket in zip(asked, tickets, strict=True):
        assert torch.allclose(ticket.latents, alone(one, 8, denoiser), rtol=1e-3, atol=1e-3)


def test_a_call_has_a_fixed_number_of_rows_or_the_rows_there_are():
    fixed, fit = [], []
    for rows, calls in [(4, fixed), ("fit", fit)]:
        engine = Engine(count_rows(calls), rows)
        engine.submit(request(0, steps=3))
        engine.submit(request(1, steps=1, guidance=2.0))
        engine.run()
    assert fixed == [4, 4, 4]
    assert fit == [3, 1, 1]


def test_rows_of_other_sizes_go_in_calls_of_their_own():
    calls = []
    engine = Engine(count_rows(calls), "fit")
    small, long = request(0), replace(request(1), states=sentence(1.0, length=5))
    tickets = [engine.submit(small), engine.submit(long), engine.submit(small)]
    engine.run()
    assert sorted(calls) == [1] * 4 + [2] * 4
    assert torch.equal(tickets[0].latents, tickets[2].latents)


def test_a_late_row_joins_at_the_next_step_and_an_early_one_leaves():
    engine = Engine(follow_text, rows=2)
    first = engine.submit(request(0, steps=3))
    engine.step()
    second = engine.submit(request(1, steps=3))
    ended = [engine.step() for _ in range(3)]
    assert (first.step, second.step) == (3, 3)
    assert ended == [[], [first], [second]]


@pytest.mark.parametrize("denoiser", [follow_text])
def test_a_cancel_at_each_of_50_steps_frees_the_row_and_leaves_the_neighbours(denoiser):
    engine, long = Engine(denoiser, rows=3), request(7, steps=50, guidance=3.0)
    short = request(1, steps=3, sampler="dpmpp_2m_sde")
    expected = alone(short, rows=3)
    for step in range(50):
        ticket = engine.submit(long)
        neighbour = None
        for done in range(step):
            if done == max(0, step - 2):
                neighbour = engine.submit(short)
            engine.step()
        ticket.cancel()
        follower = engine.submit(replace(long, table=SAMPLERS["flow_euler"](1, 1.0)))
        assert ticket in engine.step()
        assert isinstance(ticket.error, CanceledError)
        assert (ticket.step, ticket.latents) == (step, None)
        assert follower.done  # in the rows that became free
        engine.run()
        assert neighbour is None or torch.equal(neighbour.latents, expected)


def test_a_cancel_while_waiting_or_after_the_end_does_what_one_expects():
    engine = Engine(follow_text, rows=1)
    first, waiting = engine.submit(request(steps=2)), engine.submit(request(steps=2))
    waiting.cancel()
    assert engine.step() == [waiting]
    engine.run()
    first.cancel()
    engine.step()
    assert first.error is None
    assert first.latents is not None


@pytest.mark.parametrize("rows", [4, "fit"])
def test_a_nan_fails_its_row_alone(rows):
    engine = Engine(spoil, rows)
    good, bad = request(0, guidance=2.0), request(1, value=POISON)
    tickets = [engine.submit(one) for one in (good, bad, good, good)]
    engine.run()
    assert isinstance(tickets[1].error, NumericalError)
    assert tickets[1].latents is None
    assert all(torch.equal(t.latents, tickets[0].latents) for t in (tickets[2], tickets[3]))
    after = engine.submit(good)  # in a slot where the NaN was
    engine.run()
    assert torch.equal(after.latents, tickets[0].latents)


def test_a_nan_in_half_precision_is_drawn_again_in_float32():
    calls = []
    network = SpoilInHalf()
    network.register_forward_pre_hook(lambda module, _: calls.append(module.weight.dtype))
    engine = Engine(network, rows=2)
    bad, good = engine.submit(request(1, value=POISON)), engine.submit(request(0, steps=6))
    engine.run()
    assert torch.equal(bad.latents, alone(request(1, value=POISON), 2))
    assert torch.equal(good.latents, alone(request(0, steps=6), 2))
    assert bad.error is None
    assert calls.count(torch.float32) == 4
    assert network.weight.dtype == torch.bfloat16


def test_a_nan_that_float32_does_not_heal_is_an_error_after_one_retry():
    class SpoilAlways(SpoilInHalf):
        def forward(self, *arguments):
            return spoil(*arguments)

    engine = Engine(SpoilAlways(), rows=2)
    ticket = engine.submit(request(value=POISON))
    engine.run()
    assert isinstance(ticket.error, NumericalError)
    assert ticket.retried


def test_a_preview_is_the_clean_estimate_once():
    engine, seen = Engine(follow_text, rows=2), []
    ticket = engine.submit(request(steps=3))
    ticket.preview(seen.append)
    engine.run()
    asked = request(steps=3)
    time = torch.full((1,), 1000.0)
    output = follow_text(asked.latents[None], time, asked.states.hidden[None], None)
    assert len(seen) == 1
    assert torch.allclose(seen[0], asked.latents - output[0])


def test_a_preview_that_fails_fails_its_row_alone():
    engine = Engine(follow_text, rows=2)
    tickets = [engine.submit(request(seed)) for seed in (0, 1)]
    tickets[0].preview(lambda clean: 1 / 0)
    assert engine.step() == [tickets[0]]
    engine.run()
    assert isinstance(tickets[0].error, ZeroDivisionError)
    assert torch.equal(tickets[1].latents, alone(request(1), 2))


def test_a_sampler_that_adds_noise_takes_it_from_the_rows_own_generator():
    asked = [request(seed, sampler="lcm") for seed in (3, 4)]
    other = replace(asked[0], seed=5)
    assert torch.equal(alone(asked[0]), alone(request(3, sampler="lcm")))
    assert not torch.allclose(alone(asked[0]), alone(other))
    with pytest.raises(InvalidRequestError, match="seed"):
        replace(asked[0], seed=None)


def test_an_error_of_the_denoiser_leaves_rows_where_they_were():
    engine = Engine(fail_once([RuntimeError("out of memory")]), rows=2)
    ticket = engine.submit(request(sampler="lcm"))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()
    engine.run()
    assert torch.equal(ticket.latents, alone(request(sampler="lcm"), 2))


def test_other_threads_may_submit_and_cancel():
    engine, tickets = Engine(follow_text, rows=4), []

    def submit(first):
        for seed in range(first, first + 10):
            tickets.append(engine.submit(request(seed, steps=2)))
            if seed % 3 == 0:
                tickets[-1].cancel()

    threads = [threading.Thread(target=submit, args=(10 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while engine.busy or any(thread.is_alive() for thread in threads):
        engine.step()
    assert len(tickets) == 30
    assert all(t.done and (t.latents is None) == (t.error is not None) for t in tickets)
    assert all(t.error is None or isinstance(t.error, CanceledError) for t in tickets)


def test_a_guided_picture_needs_two_rows_and_states_that_fit():
    with pytest.raises(InvalidRequestError, match="guided"):
        Engine(follow_text, 1).submit(request(guidance=2.0))
    with pytest.raises(InvalidRequestError, match="widths"):
        replace(request(), guidance=Guidance(2.0, sentence(1.0, width=3)))
    with pytest.raises(InvalidRequestError, match="latents"):
        replace(request(), latents=torch.zeros(1, *SHAPE))
