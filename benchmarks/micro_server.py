"""A server on the micro model in a process of its own, as `rapid-diffusion serve` starts it."""

import contextlib
import multiprocessing
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx

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


def start(settings: Settings) -> MicroServer:
    """Start a server process and wait until it answers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=run, args=(settings,))
    process.start()
    server = MicroServer(process, settings.port)
    while True:
        try:
            httpx.get(f"{server.url}/livez", timeout=5)
        except httpx.HTTPError:
            assert process.is_alive(), "the server did not start"
            time.sleep(0.01)
        else:
            return server


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, **settings: Any) -> Iterator[MicroServer]:
    """A server with these settings; the model is built in `folder`. Leaving ends it by SIGTERM."""
    model = folder / "micro"
    if not model.exists():
        build_micro_model(model)
    defaults = {"model": str(model), "port": free_port(), "threads": THREADS}
    server = start(Settings(**defaults | settings))
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.join()
