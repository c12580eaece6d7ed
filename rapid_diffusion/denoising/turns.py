"""Threads that denoise with one engine take turns at stepping it: it needs no thread of its own.

Whoever finds nobody stepping steps, for all; then each is told of its own rows, in its own thread.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rapid_diffusion.canceling import wait
from rapid_diffusion.denoising.rows import RowRequest, Ticket
from rapid_diffusion.errors import CanceledError


class Stepped(Protocol):
    """What is shared: an engine."""

    def submit(self, request: RowRequest, behind: int = 0) -> Ticket:
        """Take a picture in, `behind` so many later callers."""

    def step(self) -> object:
        """Move every row."""

    def sweep(self) -> object:
        """Take canceled rows out."""

    def fail(self, error: Exception, tickets: Iterable[Ticket]) -> None:
        """After `step` raised: end the rows it concerns."""


@dataclass(frozen=True)
class News:
    """Rows of one call that have done `step` steps: latents (N, C, h, w)."""

    step: int
    latents: Tensor


@dataclass(eq=False)
class Call:
    """The tickets of one caller, and what it has not been told of yet."""

    listens: bool
    tickets: list[Ticket] = field(default_factory=list)
    news: deque[News] = field(default_factory=deque)
    over: bool = False

    def note(self, before: Mapping[Ticket, int]) -> None:
        """Look at what a step has done; `before` are the tickets' steps before it."""
        self.over = all(ticket.done for ticket in self.tickets)
        if not self.listens:
            return
        moved = [ticket for ticket in self.tickets if ticket.step > before.get(ticket, 0)]
        for step in sorted({ticket.step for ticket in moved}):
            rows = [t.latents for t in moved if t.step == step and t.latents is not None]
            if rows:
                self.news.append(News(step, torch.stack(rows)))


class Turns:
    """Who steps the engine, and who is told of what.

    A step that raises an `Exception` ends the rows that were in its call of the denoiser, each
    with that error, whoever stepped. Other rows go on.
    """

    def __init__(self, engine: Stepped) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._stepping = False
        self._leaving = 0
        self._calls: list[Call] = []

    @contextmanager
    def call(self, requests: Iterable[RowRequest], *, listens: bool) -> Iterator[Call]:
        """Take part with these rows; those that are not done at the end of the block are given up.

        Without `listens` there will be no news.
        """
        call = Call(listens)
        try:
            with self._changed:
                self._calls.append(call)
                for place, request in enumerate(requests):
                    call.tickets.append(self._engine.submit(request, place))
                call.over = not call.tickets
            yield call
        finally:
            self._leave(call)

    def next(self, call: Call) -> News | None:
        """The next news; None when the call's rows are done. Steps the engine where nobody does."""
        while True:
            with self._changed:
                wait(self._changed, lambda: bool(call.news) or call.over or self._is_free)
                if call.news:
                    return call.news.popleft()
                if call.over:
                    return None
                self._stepping = True
                before = {ticket: ticket.step for one in self._calls for ticket in one.tickets}
            self._step(before)

    @property
    def _is_free(self) -> bool:
        """Whether somebody may step. Those who leave go first: they would wait for ever."""
        return not self._stepping and not self._leaving

    def _step(self, before: Mapping[Ticket, int]) -> None:
        error: BaseException | None = None
        try:
            self._engine.step()
        except BaseException as raised:  # noqa: BLE001 - whoever it concerns raises it
            error = raised
        with self._changed:
            try:
                if error is not None:
                    self._fail(error)
            finally:
                for call in self._calls:
                    call.note(before)
                self._stepping = False
                self._changed.notify_all()
        if error is not None and not isinstance(error, Exception):
            raise error

    def _fail(self, error: BaseException) -> None:
        """Interrupts belong to this thread; to the others they are a cancel."""
        for_all = (
            error
            if isinstance(error, Exception)
            else CanceledError("the thread that stepped the engine was interrupted")
        )
        self._engine.fail(for_all, [ticket for call in self._calls for ticket in call.tickets])

    def _leave(self, call: Call) -> None:
        """Take the call's rows out, at the next step boundary if they are under way."""
        with self._changed:
            self._leaving += 1
            try:
                if not call.over:
                    for ticket in call.tickets:
                        ticket.cancel()
                    self._changed.wait_for(lambda: not self._stepping)
                    self._engine.sweep()
            finally:
                self._calls.remove(call)
                self._leaving -= 1
                self._changed.notify_all()
