"""`rapid-diffusion serve`: load the model, then listen until SIGTERM."""

import copy
import logging
from typing import Any

import torch
import uvicorn
from uvicorn.config import LOGGING_CONFIG

from rapid_diffusion import RapidDiffusionPipeline
from server.app import create_app
from server.settings import Settings

logger = logging.getLogger("uvicorn.error")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; both stop listening, finish what was accepted, and return.

    Raises `CheckpointError` where the model or an adapter cannot be loaded, before it listens.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    pipeline = RapidDiffusionPipeline.from_pretrained(settings.model, device=settings.device)
    for name, path in settings.adapters.items():
        pipeline.load_adapter(path, name)
    config = uvicorn.Config(
        create_app(settings, pipeline),
        host=settings.host,
        port=settings.port,
        log_config=log_config(),
        timeout_graceful_shutdown=settings.drain_seconds,
        server_header=False,
    )
    uvicorn.Server(config).run()


def log_config() -> dict[str, Any]:
    """uvicorn's logging with every stream on stderr (stdout is for data), and ours beside it."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["server"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
