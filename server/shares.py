"""Fair shares of one device: whose request is next when several keys wait."""

from collections.abc import Callable


class Shares:
    """Weighted fair queueing by virtual time (Goyal, Vin and Cheng, 1997, "start-time").

    A key's `turn` moves on by the seconds that are drawn for it, divided by its weight; the lowest
    turn is next. Who has asked for nothing in a while comes in at the present, with no credit for
    it. One thread at a time may `charge`; any thread may ask for a `turn`.
    """

    def __init__(self, weight: Callable[[str], float] = lambda _: 1.0) -> None:
        self._weight = weight
        self._turns: dict[str, float] = {}
        self._present = 0.0

    def turn(self, owner: str) -> float:
        """The virtual time at which this owner's next request is due."""
        return max(self._turns.get(owner, 0.0), self._present)

    def charge(self, owner: str, seconds: float) -> None:
        """A request of this owner begins, and will take so long."""
        self._present = self.turn(owner)
        self._turns[owner] = self._present + seconds / self._weight(owner)
