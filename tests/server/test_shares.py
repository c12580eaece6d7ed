"""Whose request is next: shares by weight, no credit for idling, and the order of the line."""

from types import SimpleNamespace
from typing import Any

from server.admission import Estimator
from server.device import WorkRequest
from server.line import Line
from server.metrics import Metrics
from server.shares import Shares
from server.tickets import Ticket


def drawn(shares: Shares, owners: list[str], count: int) -> list[str]:
    """Who is served, all of them always asking, a second each."""
    served = []
    for _ in range(count):
        owner = min(owners, key=lambda name: (shares.turn(name), name))
        shares.charge(owner, 1.0)
        served.append(owner)
    return served


def test_keys_share_by_their_weights() -> None:
    shares = Shares({"large": 3.0, "small": 1.0}.__getitem__)
    served = drawn(shares, ["large", "small"], 400)
    assert abs(served.count("large") - 300) <= 2


def test_who_was_idle_gets_a_fair_share_and_no_more() -> None:
    shares = Shares()
    drawn(shares, ["early"], 1000)
    served = drawn(shares, ["early", "late"], 100)
    assert abs(served.count("late") - 50) <= 1


def test_a_line_is_fair_between_owners_and_in_order_within_each() -> None:
    line = Line(99, 1e9, Estimator({"num_inference_steps": 1}), Shares(), Metrics())
    for number, owner in enumerate(["a", "a", "a", "b", "b"]):
        line.join(ticket(f"{owner}{number}", owner, number))
    order = []
    while (following := line.next()) is not None:
        line.begin(following)
        order.append(following.request.request_id)
        line.end(following)
    assert order == ["a0", "b3", "a1", "b4", "a2"]


def ticket(name: str, owner: str, submitted: float) -> Ticket:
    loop: Any = SimpleNamespace()
    return Ticket(WorkRequest(name, "老虎", {}, owner=owner), loop, submitted=submitted)
