"""A server on the micro model in a process of its own, as `rapid-diffusion serve` starts it."""

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rapid_diffusion.testing import build_micro_model
from server.main import run
from server.settings import Settings

THREADS = 1
# Imported once, in the process that the servers are forked from: hundreds of them are started.
PRELOADED = [
    "torch",
    "server.main",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.bert.modeling_bert",
]


@dataclass(frozen=True)
class MicroServer:
    """One running server."""

    process: BaseProcess
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str) -> int | None:
        """What it answers now; None where nobody does. Cheap: it is asked many times a second."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def start(settings: Settings, turns: Path | None = None) -> MicroServer:
    """Start a server process and wait until it answers; `turns` as `run_timed` says."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=run_timed, args=(settings, turns))
    process.start()
    server = MicroServer(process, settings.port)
    while server.status("/livez") is None:
        assert process.is_alive(), "the server did not start"
        time.sleep(0.02)
    return server


def run_timed(settings: Settings, turns: Path | None) -> None:
    """Serve; then write into `turns` how much processor time each turn of the event loop took.

    A turn is all that was ready at once: whatever becomes ready meanwhile waits so long, on a
    machine that has nothing else to do.
    """
    spent: list[int] = []
    honest = asyncio.SelectorEventLoop._run_once

    def run_once(loop: asyncio.SelectorEventLoop) -> None:
        began = time.thread_time_ns()
        honest(loop)
        spent.append(time.thread_time_ns() - began)

    if turns is None:
        run(settings)
        return
    asyncio.SelectorEventLoop._run_once = run_once  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again at the end
    try:
        run(settings)
    finally:
        signal.signal(signal.SIGTERM, before)
        ordered = sorted(spent)
        places = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
        told = {name: ordered[int(q * (len(ordered) - 1))] / 1e6 for name, q in places.items()}
        turns.write_text(json.dumps(told | {"turns": len(spent)}), encoding="utf-8")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, turns: Path | None = None, **settings: Any) -> Iterator[MicroServer]:
    """A server with these settings; the model is built in `folder`. Leaving ends it by SIGTERM."""
    model = folder / "micro"
    if not model.exists():
        build_micro_model(model)
    defaults: dict[str, Any] = {"model": str(model), "port": free_port(), "threads": THREADS}
    server = start(Settings(**defaults | settings), turns)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.join()
