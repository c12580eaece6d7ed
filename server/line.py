"""The requests of one device: those that wait in line, those in hand, and the work in both."""

import math
from bisect import insort

from server.admission import Company, Estimator, Measured
from server.errors import Problem
from server.metrics import Metrics
from server.shares import Shares
from server.tickets import Ticket

MOST_LOSSES = 3  # so often a request may lose its device before it is taken for the cause


class Line:
    """A bounded line, fair between owners, and first come first served for each of them.

    Not for several threads at once: the worker's lock guards it.
    """

    def __init__(
        self, size: int, seconds: float, estimator: Estimator, shares: Shares, metrics: Metrics
    ) -> None:
        self._size, self._seconds, self._metrics = size, seconds, metrics
        self._shares = shares
        self._company = Company()
        self.estimator = estimator
        self.waiting: list[Ticket] = []  # in the order in which they came
        self.in_hand: list[Ticket] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self.waiting and not self.in_hand

    @property
    def work_seconds(self) -> float:
        """Predicted seconds of all that was taken and is not over."""
        taken = [*self.waiting, *self.in_hand]
        return sum(self.estimator.share(ticket.request.arguments) for ticket in taken)

    def overload(self, ticket: Ticket) -> Problem | None:
        """Why there is no place for it: too many, too much work, or more than its deadline."""
        request, ahead, waiting = ticket.request, self.work_seconds, len(self.waiting)
        own = self.estimator.predict(request.arguments)
        late = 0.0
        if request.deadline_seconds is not None and ahead:
            late = ahead + own - request.deadline_seconds
        if waiting:  # the first in line always has a place
            late = max(late, ahead + own - self._seconds)
        if late <= 0 and waiting < self._size:
            return None
        values = {"received": waiting, "seconds": math.ceil(ahead)}
        return Problem("overloaded", values=values, retry_after=max(1.0, late or ahead))

    def join(self, ticket: Ticket) -> None:
        """It waits; one that has waited before gets its old place."""
        insort(self.waiting, ticket, key=lambda waiting: waiting.submitted)
        self._count()

    def leave(self, ticket: Ticket) -> bool:
        """It does not wait any more; whether it did."""
        if ticket not in self.waiting:
            return False
        self.waiting.remove(ticket)
        self._count()
        return True

    def next(self) -> Ticket | None:
        """The next one, if it may begin: a request on its last try and others never meet."""
        if not self.waiting:
            return None
        ticket = min(self.waiting, key=lambda t: (self._shares.turn(t.request.owner), t.submitted))
        last_try = MOST_LOSSES - 1
        if ticket.losses >= last_try:
            return None if self.in_hand else ticket
        return ticket if all(other.losses < last_try for other in self.in_hand) else None

    def begin(self, ticket: Ticket) -> None:
        """It is drawn from now on."""
        request = ticket.request
        self._shares.charge(request.owner, self.estimator.share(request.arguments))
        self._company.change(+1)
        ticket.company = self._company.begin()
        self.waiting.remove(ticket)
        self.in_hand.append(ticket)
        self._count()

    def end(self, ticket: Ticket) -> None:
        """It is not drawn any more."""
        self.in_hand.remove(ticket)
        self._company.change(-1)
        self._count()

    def learn(self, ticket: Ticket, timings: dict[str, float]) -> None:
        """Note how long it took; while it is in hand."""
        together = self._company.since(ticket.company)
        self.estimator.observe(Measured(ticket.request.arguments, timings, together))

    def _count(self) -> None:
        self._metrics.running.set(len(self.in_hand))
        self._metrics.waiting.set(len(self.waiting))
        self._metrics.work_seconds.set(self.work_seconds)
