"""Random interleavings of what happens to requests: `benchmarks/service.py interleavings`.

hypothesis submits, cancels, disconnects, and has a scripted device step, finish, fail or die in any
order, while the worker's own threads run freely. Every accepted request must end, and end once.
"""

import asyncio
import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from rapid_diffusion import GenerationResult
from rapid_diffusion.errors import CanceledError
from server.device import GraphInUse, WorkerLostError, WorkRequest
from server.errors import Problem
from server.metrics import Metrics
from server.worker import Failed, Started, Succeeded, Ticket, Worker

STEPS = 4
PATIENCE = 60.0  # seconds; nothing that is right takes so long


class ScriptedDevice:
    """Draws three at once, and does with each what its script says next."""

    measured = ()
    capabilities: Any = SimpleNamespace(
        concurrency=3, defaults={"num_inference_steps": STEPS, "guidance_scale": 5.0}
    )

    def __init__(self) -> None:
        self.is_ready = True
        self.on_change: Callable[[], None] = lambda: None
        self.on_refused: Callable[[], object] = lambda: None
        self.scripts: dict[int, queue.SimpleQueue[str]] = {}  # by identity of the request

    def draw(self, request: WorkRequest, after_step: Callable[[int, int], None]) -> Any:
        """As `Device` says."""
        after_step(0, 0)
        for step in range(1, 1000):
            word = self.scripts[id(request)].get(timeout=PATIENCE)
            if word == "lose":
                raise WorkerLostError("lost")
            if word == "fail":
                raise ZeroDivisionError("failed")
            if word == "cancel":
                raise CanceledError("canceled by its caller")
            if word == "finish":
                break
            after_step(min(step, STEPS), STEPS)
        return GenerationResult(np.zeros((1, 2, 2, 3), np.uint8), [[]], [0], {}, {}, [None])

    def cancel(self, request: WorkRequest) -> None:
        """As `Device` says."""
        self.scripts[id(request)].put("cancel")

    def reload(self, path: str | None) -> GraphInUse:
        """As `Device` says."""
        return GraphInUse("scripted", str(path))

    def close(self) -> None:
        """As `Device` says."""


class Interleaving(RuleBasedStateMachine):
    """One worker and its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.device, self.metrics = ScriptedDevice(), Metrics()
        self.worker = Worker(self.device, 6, self.metrics)
        self.worker.start()
        self.tickets: list[Ticket] = []
        self.refused: list[Problem] = []
        self.words: list[list[str]] = []

    @rule(accepted=st.booleans())
    def submit(self, accepted: bool) -> None:
        """A client or a job comes; a full queue says how long to wait."""
        request = WorkRequest(str(len(self.tickets)), "老虎", {"seed": 0})
        self.device.scripts[id(request)] = queue.SimpleQueue()
        try:
            ticket = self.loop.run_until_complete(self._submit(request, accepted))
        except Problem as refused:
            self.refused.append(refused)
            return
        self.tickets.append(ticket)
        self.words.append([])

    async def _submit(self, request: WorkRequest, accepted: bool) -> Ticket:
        return self.worker.submit(request, accepted=accepted)

    @rule(place=st.integers(0, 30), times=st.integers(1, 2))
    def cancel(self, place: int, times: int) -> None:
        """A client cancels, perhaps twice."""
        for _ in range(times * bool(self.tickets)):
            self._note(place, "cancel")
            self.worker.cancel(self.tickets[place % len(self.tickets)])

    @rule(place=st.integers(0, 30))
    def disconnect(self, place: int) -> None:
        """A client leaves: its route cancels, and nobody reads what comes."""
        if self.tickets:
            self._note(place, "cancel")
            self.worker.cancel(self.tickets[place % len(self.tickets)])

    @rule(place=st.integers(0, 30), word=st.sampled_from(["step", "finish", "fail", "lose"]))
    def happen(self, place: int, word: str) -> None:
        """The device does something, at once or when it comes to that request."""
        if self.tickets:
            ticket = self.tickets[place % len(self.tickets)]
            self._note(place, word)
            self.device.scripts[id(ticket.request)].put(word)

    @rule(ready=st.booleans())
    def change_readiness(self, ready: bool) -> None:
        """The device is lost or comes back."""
        self.device.is_ready = ready
        self.device.on_change()

    @rule()
    def look(self) -> None:
        """The event loop gets to run."""
        self.loop.run_until_complete(asyncio.sleep(0))

    def teardown(self) -> None:
        """Let all be finished, and see how each ended."""
        self.device.is_ready = True
        self.device.on_change()
        for ticket in self.tickets:
            self.device.scripts[id(ticket.request)].put("finish")
        self.worker.close(PATIENCE)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        for ticket, words in zip(self.tickets, self.words, strict=True):
            check_end(ticket, words)
        assert all(r.status == 503 and r.retry_after is not None for r in self.refused)
        assert self.metrics.running._value.get() == self.metrics.waiting._value.get() == 0
        assert not any(thread.is_alive() for thread in self.worker._threads)

    def _note(self, place: int, word: str) -> None:
        self.words[place % len(self.tickets)].append(word)


def check_end(ticket: Ticket, words: list[str]) -> None:
    """One terminal event, the last one, and the one that its story allows."""
    events = []
    while not ticket.outbox.empty():
        events.append(ticket.outbox.get_nowait())
    ends = [event for event in events if isinstance(event, Succeeded | Failed)]
    assert len(ends) == 1, f"{words}: {events}"
    assert events[-1] is ends[0], f"{words}: {events}"
    if not {"cancel", "fail", "lose"} & set(words):
        assert isinstance(ends[0], Succeeded), f"{words}: {events}"
        assert isinstance(events[0], Started)


def interleave(examples: int, steps: int = 25, *, shrink: bool = True) -> None:
    """So many stories of at most so many rules; raises `AssertionError` for one that is wrong."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
    )
    run_state_machine_as_test(Interleaving, settings=chosen)
