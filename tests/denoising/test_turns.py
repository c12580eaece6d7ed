"""Threads that denoise with one engine: they share its calls, and nothing else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rapid_diffusion import Cancellation
from rapid_diffusion.denoising.engine import Engine, Guidance, RowRequest, denoise, row_noise
from rapid_diffusion.denoising.samplers import flow_euler
from rapid_diffusion.errors import CanceledError
from rapid_diffusion.text.encoder import TextStates

SHAPE = (2, 3, 3)


def states(value):
    return TextStates(torch.full((1, 1, 1), value), torch.ones(1, 1, dtype=torch.bool))


def run(engine, seed, steps=4, callback=None, shape=SHAPE):
    """One guided picture, two rows."""
    noise, guidance = row_noise(seed, shape)[None], Guidance(3.0, states(-1.0))
    return denoise(engine, noise, states(float(seed)), flow_euler(steps), guidance, callback)


class Field:
    """A field that the sentence pulls on; its first call waits until `company` callers are there.

    `faults` are raised, each by one call, from that call on that `company` callers share.
    """

    def __init__(self, company=1, faults=()):
        self.calls, self.company, self.faults = 0, company, list(faults)
        self.engine = None
        self.open = threading.Event()
        self.open.set()

    def __call__(self, rows, timesteps, hidden, mask):
        while len(self.engine.turns._calls) < self.company and not self.calls:
            time.sleep(0.001)
        self.calls += 1
        assert self.open.wait(60)
        if self.faults and self.calls > 1:
            raise self.faults.pop()
        return torch.sin(rows + timesteps[:, None, None, None]) - hidden[:, :1, :, None]


def shared(rows, company=1, faults=()):
    field = Field(company, faults)
    field.engine = Engine(field, rows)
    return field.engine


def alone(rows, seed, **more):
    return run(shared(rows), seed, **more)


def test_four_callers_share_calls_and_get_the_bits_they_get_alone():
    engine = shared(8, company=4)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda seed: run(engine, seed, steps=6), range(4)))
    assert engine.denoiser.calls <= 8  # 6 for one alone, 24 one after the other
    for seed, latents in enumerate(drawn):
        assert torch.equal(latents, alone(8, seed, steps=6))


def test_every_caller_hears_of_each_of_its_steps_once_in_its_own_thread():
    engine, heard = shared(4, company=3), {}

    def listen(seed):
        def callback(step, steps, latents):
            time.sleep(0.001 * seed)  # others step on meanwhile
            heard.setdefault(seed, []).append((threading.get_ident(), step, steps, latents))

        return threading.get_ident(), run(engine, seed, 10, callback)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(listen, range(3)))
    for seed, (thread, latents) in enumerate(results):
        assert [told[:3] for told in heard[seed]] == [(thread, step, 10) for step in range(10)]
        assert torch.equal(heard[seed][-1][3], latents)


def test_a_callback_that_does_not_come_back_holds_nobody_up():
    engine, done = shared(4, company=2), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(run, engine, 0, 4, lambda *_: done.wait(60))
        quick = pool.submit(run, engine, 1, 4)
        assert torch.equal(quick.result(60), alone(4, 1))
        done.set()
        assert torch.equal(slow.result(60), alone(4, 0))


def test_a_callback_that_raises_ends_its_own_run_and_no_other():
    engine = shared(4, company=2)

    def stop(step, *_):
        if step == 1:
            raise ZeroDivisionError

    with ThreadPoolExecutor(2) as pool:
        stopped, other = pool.submit(run, engine, 0, 9, stop), pool.submit(run, engine, 1, 9)
        with pytest.raises(ZeroDivisionError):
            stopped.result(60)
        assert len(tickets(engine)) <= 1
        assert torch.equal(other.result(60), alone(4, 1, steps=9))
    assert not engine.busy


def tickets(engine):
    return [ticket for bucket in engine._buckets.values() for ticket in bucket.line]


def test_an_error_of_the_denoiser_reaches_all_whose_rows_were_in_the_call():
    engine = shared(4, company=3, faults=[MemoryError("full")])
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run, engine, seed) for seed in range(3)]
        ends = [one.exception(60) for one in runs]
    # Four rows hold two of them; the third waited, and is drawn.
    assert sorted(map(repr, ends)) == ["MemoryError('full')"] * 2 + ["None"]
    place = ends.index(None)
    assert torch.equal(runs[place].result(), alone(4, place))
    assert torch.equal(run(engine, 5), alone(4, 5))


def test_an_error_in_the_call_of_one_size_leaves_the_other_size_alone():
    engine = shared(2, company=2, faults=[MemoryError("full")])
    large = (2, 5, 5)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, engine, 1, shape=shape) for shape in (SHAPE, large)]
        ends = [one.exception(60) for one in runs]
    assert sorted(map(repr, ends)) == ["MemoryError('full')", "None"]
    place = ends.index(None)
    assert torch.equal(runs[place].result(), alone(2, 1, shape=(SHAPE, large)[place]))


def test_a_draft_that_fails_ends_those_it_concerns_and_nobody_waits_for_ever():
    engine = shared(4)
    bucket_of = engine._bucket

    def spoiled(ticket):
        bucket = bucket_of(ticket)
        bucket._drafts_of = lambda hidden: 1 / 0
        return bucket

    engine._bucket = spoiled
    with pytest.raises(ZeroDivisionError):
        run(engine, 1)
    engine._bucket = bucket_of
    for bucket in engine._buckets.values():
        bucket._drafts_of = None
    assert torch.equal(run(engine, 1), alone(4, 1))


def test_an_interrupt_belongs_to_the_thread_that_steps():
    engine = shared(4, company=2, faults=[KeyboardInterrupt()])
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, engine, seed) for seed in range(2)]
        ends = {type(one.exception(60)) for one in runs}
    assert ends == {KeyboardInterrupt, CanceledError}
    assert torch.equal(run(engine, 1), alone(4, 1))


def test_a_call_that_waits_for_a_row_is_canceled_without_a_step():
    engine, cancellation, moved = shared(2), Cancellation(), []
    engine.denoiser.open.clear()

    def wait_in_vain():
        with cancellation.watching():
            run(engine, 1, 9, lambda *_: moved.append(1))  # due after the other one

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(run, engine, 0, 6)
        while not engine.denoiser.calls:
            time.sleep(0.001)
        waiting = pool.submit(wait_in_vain)
        while len(engine.turns._calls) < 2:
            time.sleep(0.001)
        cancellation.cancel()
        engine.denoiser.open.set()
        with pytest.raises(CanceledError):
            waiting.result(60)
        assert torch.equal(holder.result(60), alone(2, 0, steps=6))
    assert (moved, engine.denoiser.calls) == ([], 6)


def test_who_wants_one_picture_waits_for_one_of_those_who_want_many_at_most():
    engine, table = Engine(Field(), rows=1), flow_euler(1)
    engine.denoiser.engine = engine
    engine.denoiser.company = 0
    one = RowRequest(row_noise(0, SHAPE), TextStates(torch.ones(1, 1), torch.ones(1) > 0), table)
    many = [engine.submit(one, place) for place in range(4)]
    first, second = engine.submit(one), engine.submit(one)
    ended = [engine.step()[0] for _ in range(6)]
    assert ended == [many[0], first, second, many[1], many[2], many[3]]


def test_200_callers_that_come_and_go_leave_nothing_behind():
    engine = shared(4)

    def caller(number):
        def stop(step, *_):
            if step == number % 7:
                raise CanceledError("enough")

        try:
            return run(engine, number % 5, 1 + number % 6, stop if number % 3 == 0 else None)
        except CanceledError:
            return None

    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(caller, range(200)))
    wanted = {n: alone(4, n % 5, steps=1 + n % 6) for n in range(30)}
    assert all(one is None or torch.equal(one, wanted[n % 30]) for n, one in enumerate(drawn))
    assert sum(one is None for one in drawn) > 20
    assert (engine.busy, engine.turns._calls) == (False, [])
