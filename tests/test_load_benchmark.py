"""The clock of `benchmarks/load.py`: its queue and its engine do what can be worked out by hand."""

import pytest


@pytest.fixture
def bench(micro_model_folder, benchmark_script):
    load = benchmark_script("load")
    found = load.Bench(str(micro_model_folder), "cpu", real=False)
    found.costs = dict.fromkeys(range(1, 17), 1.0)  # a call takes a second, whatever its rows
    found.finishing = 0.5
    return load, found


def test_a_queue_and_a_shared_engine_take_what_is_worked_out_by_hand(bench):
    load, found = bench
    coming = [load.Arrival(0.0, 20, 5.0), load.Arrival(2.5, 4, 1.0)]
    queue = [(done.arrival.steps, done.ended) for done in found.serve(coming, "fit", most=1)]
    assert queue == [(20, 20.5), (4, 25.0)]
    shared = [(done.arrival.steps, done.ended) for done in found.serve(coming, "fit")]
    assert shared == [(4, 7.5), (20, 21.0)]  # seated at 3, four steps, and two finishings
    pausing = [(done.arrival.steps, done.ended) for done in found.serve(coming, 2)]
    assert pausing == [(4, 7.5), (20, 25.0)]  # both rows are taken, and given up for four steps


def test_arrivals_are_as_many_as_asked_and_as_often(bench):
    load, _ = bench
    coming = load.arrivals(2000, 4.0)
    assert coming[-1].at == pytest.approx(500, rel=0.1)
    assert {4, 50} <= {arrival.steps for arrival in coming} <= set(range(4, 51))
