"""`rapid-diffusion serve`: load the model, then listen until SIGTERM."""

import copy
import logging
import threading
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from rapid_diffusion import RapidDiffusionPipeline
from server.app import create_app
from server.device_main import LoadPipeline
from server.process import Patience, RemoteDevice
from server.protocol import PatientProtocol
from server.service import Service
from server.settings import Settings

logger = logging.getLogger("uvicorn.error")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; both stop listening, finish what was accepted, and return.

    Raises `CheckpointError` where the model or an adapter cannot be loaded, before it listens.
    """
    app = create_app(settings, _open_pipeline(settings))
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        host=settings.host,
        port=settings.port,
        log_config=log_config(),
        timeout_graceful_shutdown=settings.drain_seconds,
        server_header=False,
    )
    _DrainingServer(config, app.state.service).run()


def _open_pipeline(settings: Settings) -> RapidDiffusionPipeline | RemoteDevice:
    load = LoadPipeline(
        settings.model,
        settings.device,
        settings.threads,
        tuple(settings.adapters.items()),
        settings.rows,
    )
    if not settings.worker_process:
        return load()
    device = RemoteDevice(load, Patience(settings.silence_seconds, settings.hang_seconds))
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
