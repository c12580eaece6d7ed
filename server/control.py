"""What an operator may do to a running server, by the second port or by SIGHUP."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from server.device import WorkerLostError
from server.errors import Problem
from server.service import Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exchanged:
    """The version of a graph before and after; equal where nothing had changed."""

    old_version: str | None
    new_version: str


class Control:
    """Call it from any thread but the event loop's: a call returns when its effect is there."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._exchanging = threading.Lock()

    def reload_graph(self) -> Exchanged:
        """Exchange the graph for what stands in its folder now; requests in flight keep theirs.

        Raises `Problem`: exchange_refused where it cannot be used (the old one keeps serving),
        not_ready while the worker is being started.
        """
        service = self._service
        path = service.settings.graph
        with self._exchanging:
            old = service.capabilities.knowledge_version
            try:
                new = service.device.reload(None if path is None else str(path)).version
            except CheckpointError as error:
                self._count("graph", "refused")
                values = {"reason": str(error), "kept": f"version {old}"}
                raise Problem("exchange_refused", values=values) from error
            except WorkerLostError as error:
                self._count("graph", "not_ready")
                raise Problem("not_ready", retry_after=10.0) from error
            self._count("graph", "done")
            service.metrics.knowledge.info({"version": new})
        logger.info("knowledge graph: version %s took the place of %s", new, old)
        return Exchanged(old, new)

    def reload_words(self) -> int:
        """Read the word list again; how many terms it has.

        Raises `Problem` exchange_refused where it cannot be read; the old one stays in force.
        """
        words = self._service.words
        try:
            count = words.reload()
        except InvalidRequestError as error:
            self._count("words", "refused")
            values = {"reason": str(error), "kept": f"{len(words.current)} terms"}
            raise Problem("exchange_refused", values=values) from error
        self._count("words", "done")
        logger.info("word list: %d terms", count)
        return count

    def drain(self) -> dict[str, Any]:
        """Take nothing new from now on; how much of what was accepted is left, also if asked again.

        Jobs that wait stay in the journal, for the next server.
        """
        self._service.worker.drain()
        left = {
            name: int(self._service.metrics.registry.get_sample_value(f"t2i_{name}") or 0)
            for name in ("requests_running", "requests_waiting", "jobs_waiting")
        }
        idle = not (left["requests_running"] or left["requests_waiting"])
        return {"status": "drained" if idle else "draining", **left}

    def hang_up(self) -> None:
        """What SIGHUP asks for: exchange everything that can be; what is refused is logged."""
        exchanges: list[Callable[[], object]] = [self.reload_words]
        if self._service.capabilities.knowledge_version is not None:
            exchanges.append(self.reload_graph)
        for exchange in exchanges:
            try:
                exchange()
            except Problem as problem:
                logger.error("SIGHUP: %s: %s", problem.code, problem.values.get("reason", ""))

    def _count(self, what: str, result: str) -> None:
        self._service.metrics.reloads.labels(what=what, result=result).inc()
