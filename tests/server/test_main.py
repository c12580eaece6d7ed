"""`run` as the command line calls it: a real port, a real SIGTERM."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import CheckpointError
from server.main import run
from server.settings import Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask_and_terminate(port: int, gate: Any) -> httpx.Response:
    """Ask for a picture, send SIGTERM while it is drawn, and let it be finished after that."""
    asking = ThreadPoolExecutor(1).submit(ask, port)
    try:
        assert gate.entered.wait(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)  # uvicorn looks for signals ten times a second
        gate.open.set()
    return asking.result()


def ask(port: int) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(retries=10), timeout=60) as client:
        return client.post(f"http://127.0.0.1:{port}/generate", json={"prompt": "老虎"})


def test_sigterm_finishes_the_running_request(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RapidDiffusionPipeline, "from_pretrained", lambda *_, **__: gate)
    monkeypatch.setattr("server.main.log_config", lambda: None)  # pytest's own handlers stay
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when done
    port = free_port()
    answer = ThreadPoolExecutor(1).submit(ask_and_terminate, port, gate)
    try:
        run(Settings(port=port, worker_process=False))
        assert answer.result().status_code == 200
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/livez")


def test_missing_model_is_told_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing-here"):
        run(Settings(model=str(tmp_path / "nothing-here"), port=free_port()))
