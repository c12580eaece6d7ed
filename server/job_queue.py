"""The jobs that wait for the device: their order, and how long that will take."""

from collections.abc import Callable
from typing import Any

from server.live import LiveJob
from server.metrics import Metrics
from server.shares import Shares
from server.worker import Worker


class JobQueue:
    """By priority, then fairly between owners, then in the order in which they were accepted.

    `changed` is called whenever one comes or goes. It belongs to the event loop's thread.
    """

    def __init__(self, worker: Worker, shares: Shares, metrics: Metrics) -> None:
        self._worker, self._shares, self._metrics = worker, shares, metrics
        self._waiting: list[LiveJob] = []
        self.changed: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, live: LiveJob) -> bool:
        return live in self._waiting

    def add(self, live: LiveJob) -> None:
        """It waits."""
        self._waiting.append(live)
        self._tell()

    def remove(self, live: LiveJob) -> None:
        """It does not wait any more."""
        self._waiting.remove(live)
        self._tell()

    def take(self) -> LiveJob:
        """The next one, which waits no more; there must be one."""
        live = min(self._waiting, key=self._turn)
        self.remove(live)
        return live

    def places(self) -> dict[str, tuple[int, float]]:
        """For each job that waits, by id: how many are before it, and for how many seconds."""
        found, seconds = {}, self._worker.work_seconds
        for place, live in enumerate(sorted(self._waiting, key=self._turn)):
            found[live.record.id] = (place, seconds)
            seconds += self.seconds(live.record.request)
        return found

    def work_seconds(self) -> float:
        """Predicted seconds until the device has nothing left to do."""
        waiting = sum(self.seconds(live.record.request) for live in self._waiting)
        return self._worker.work_seconds + waiting

    def seconds(self, request: dict[str, Any]) -> float:
        """Predicted seconds of the device that a job's request takes."""
        return self._worker.predict({k: v for k, v in request.items() if v is not None})

    def _turn(self, live: LiveJob) -> tuple[int, float, int]:
        record = live.record
        return -record.priority, self._shares.turn(record.owner), record.sequence

    def _tell(self) -> None:
        self._metrics.jobs_waiting.set(len(self._waiting))
        self.changed()
