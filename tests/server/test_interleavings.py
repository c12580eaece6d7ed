"""Requests end once, in whatever order things happen (long form: benchmarks/service.py)."""

from typing import Any

import pytest

from server.worker import Failed, Succeeded


def test_every_request_ends_once_in_whatever_order_things_happen(benchmark_script: Any) -> None:
    benchmark_script("interleavings").interleave(60)


def test_a_second_end_would_be_seen(benchmark_script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark_script("interleavings")
    honest = script.Ticket.publish

    def twice(ticket: Any, event: Any) -> None:
        for _ in range(1 + isinstance(event, Succeeded | Failed)):
            honest(ticket, event)

    monkeypatch.setattr(script.Ticket, "publish", twice)
    with pytest.raises(AssertionError):
        script.interleave(60, shrink=False)
