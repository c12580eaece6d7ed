"""The application, put together from what it is given; there is no module-level app."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rapid_diffusion import RapidDiffusionPipeline, __version__
from server.device import Device, LocalDevice
from server.errors import (
    Problem,
    answer_crash,
    answer_http_error,
    answer_no_storage,
    answer_nobody,
    answer_problem,
)
from server.jobs import Jobs
from server.keys import Keys
from server.metrics import Metrics
from server.middleware import Guard, RequestContext
from server.openapi import describe
from server.picture_check import PictureCheck
from server.process import RemoteDevice
from server.routes import capabilities, entities, generate, health, images, jobs, openai
from server.service import Service
from server.settings import Settings
from server.shares import Shares
from server.webhooks import Webhooks
from server.wordlist import Words
from server.worker import Worker

_LAG_INTERVAL = 0.25  # seconds between two looks at the event loop's lateness


def create_app(settings: Settings, pipeline: RapidDiffusionPipeline | RemoteDevice) -> FastAPI:
    """The service over one loaded pipeline, which its worker owns from the start of its lifespan.

    A `RemoteDevice` that was started is a pipeline in a process of its own. Raises
    `MissingDependencyError` where pictures are to be checked and nothing can do it.

    The documentation pages that FastAPI offers fetch scripts from elsewhere: they are off, and
    `/openapi.json` stays.
    """
    metrics = Metrics()
    device = pipeline if isinstance(pipeline, RemoteDevice) else _local(settings, pipeline)
    device.on_refused = metrics.filtered.labels(by="picture").inc
    device.on_work = metrics.observe_work
    able = device.capabilities
    if isinstance(device, RemoteDevice):
        device.on_loss = lambda reason: metrics.worker_losses.labels(reason=reason).inc()
    metrics.knowledge.info({"version": able.knowledge_version or "none"})
    keys = None if settings.keys_file is None else Keys.read(settings.keys_file)
    shares = Shares() if keys is None else Shares(keys.weight)
    worker = Worker(device, settings.queue_size, metrics, settings.queue_seconds, shares)
    metrics.ready.set_function(lambda: float(worker.obstacle is None))
    app = FastAPI(
        title="Rapid Diffusion",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        exception_handlers={
            Problem: answer_problem,
            HTTPException: answer_http_error,
            ClientDisconnect: answer_nobody,
            sqlite3.Error: answer_no_storage,
            Exception: answer_crash,
        },
    )
    kept = None if settings.state is None else Jobs(settings, able, worker, metrics, shares, keys)
    webhooks = None
    if kept is not None:
        webhooks = Webhooks(kept.journal, keys, settings, metrics, partial(jobs.job_view, kept))
        kept.on_end = webhooks.job_ended
    words = Words(settings.word_list)
    app.state.service = Service(settings, device, worker, metrics, kept, keys, words, webhooks)
    for room in (generate, openai, images, jobs, entities, health, capabilities):
        app.include_router(room.router)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # as FastAPI's own page says
    app.add_middleware(Guard, settings=settings, keys=keys)
    app.add_middleware(RequestContext, metrics=metrics)  # the last one added is the outermost
    return app


def _local(settings: Settings, pipeline: RapidDiffusionPipeline) -> Device:
    threshold = settings.picture_threshold
    return LocalDevice(pipeline, PictureCheck.open(threshold) if settings.picture_check else None)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.worker.start()
    if service.webhooks is not None:
        await service.webhooks.start()
    if service.jobs is not None:
        await service.jobs.start()
    watching = asyncio.create_task(_watch_loop(service.metrics))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.to_thread(service.worker.close, service.settings.drain_seconds)
        if service.webhooks is not None:
            await service.webhooks.close()
        if service.jobs is not None:
            await service.jobs.close()


async def _watch_loop(metrics: Metrics) -> None:
    """How late the event loop wakes us says how long something blocked it."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        metrics.loop_lag.set(max(0.0, loop.time() - due))
