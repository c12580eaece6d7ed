"""`rapid-diffusion serve`: load the model, then listen until SIGTERM."""

import contextlib
import copy
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from rapid_diffusion import RapidDiffusionPipeline
from server.admin import AdminPort, create_admin_app
from server.app import create_app
from server.control import Control
from server.device_main import LoadPipeline
from server.memory import keep_what_is_there, use_one_arena
from server.process import Patience, RemoteDevice
from server.protocol import PatientProtocol
from server.service import Service
from server.settings import Settings

logger = logging.getLogger("uvicorn.error")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; both stop listening, finish what was accepted, and return.

    SIGHUP exchanges the graph, as `POST /admin/knowledge/reload` does on the operators' port.
    Raises `CheckpointError` where the model, its graph or an adapter cannot be loaded, before it
    listens, and `InvalidRequestError` where the operators' port cannot be had.
    """
    use_one_arena()
    with contextlib.ExitStack() as stack:
        port = None if settings.admin_port is None else AdminPort(settings)
        if port is not None:
            stack.callback(port.close)
        app = create_app(settings, _open_pipeline(settings))
        control = Control(app.state.service)
        server = _DrainingServer(_config(app, settings), app.state.service)
        if port is not None:
            port.start(create_admin_app(app.state.service, control))
        stack.enter_context(_hearing_hang_ups(control))
        keep_what_is_there()
        server.run()


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Making it sets up the logging too."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        host=settings.host,
        port=settings.port,
        log_config=log_config(),
        access_log=False,  # ours has the request's id, and the answer goes first
        timeout_graceful_shutdown=settings.drain_seconds,
        server_header=False,
    )


@contextlib.contextmanager
def _hearing_hang_ups(control: Control) -> Iterator[None]:
    """In the main thread only, which is the one that hears signals."""

    def begin(_number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=control.hang_up, name="hang-up", daemon=True).start()

    before = signal.signal(signal.SIGHUP, begin)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _open_pipeline(settings: Settings) -> RapidDiffusionPipeline | RemoteDevice:
    load = LoadPipeline(
        settings.model,
        settings.device,
        settings.threads,
        tuple(settings.adapters.items()),
        settings.rows,
        settings.artifacts,
        None if settings.graph is None else str(settings.graph),
    )
    if not settings.worker_process:
        return load()
    patience = Patience(settings.silence_seconds, settings.hang_seconds)
    threshold = settings.picture_threshold if settings.picture_check else None
    device = RemoteDevice(load, patience, threshold)
    device.start()
    return device


class _DrainingServer(uvicorn.Server):
    """Says at once that it drains: streams end then, and readiness with them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's handler of SIGTERM and SIGINT; the main thread may hold the worker's lock."""
        threading.Thread(target=self._service.worker.drain, name="drain").start()
        super().handle_exit(sig, frame)


def log_config() -> dict[str, Any]:
    """uvicorn's logging with every stream on stderr (stdout is for data), and ours beside it."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["server"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
