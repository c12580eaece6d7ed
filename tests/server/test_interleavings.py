"""Requests end once, in whatever order things happen (long form: benchmarks/service.py)."""

from typing import Any

import pytest

from server.worker import Failed


def test_every_request_ends_once_in_whatever_order_things_happen(benchmark_script: Any) -> None:
    benchmark_script("interleavings").interleave(60)


def test_a_second_end_would_be_seen(benchmark_script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark_script("interleavings")
    honest = script.Worker._fail

    def twice(worker: Any, ticket: Any, error: BaseException) -> None:
        honest(worker, ticket, error)
        ticket.publish(Failed(error))

    monkeypatch.setattr(script.Worker, "_fail", twice)
    with pytest.raises(AssertionError):
        script.interleave(60, shrink=False)
