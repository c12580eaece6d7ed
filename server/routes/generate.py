"""`POST /generate`: read, queue, wait, encode."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from server.answers import Finished, build_answer
from server.device import WorkRequest
from server.drawing import result_bytes
from server.encoding import beside_the_loop
from server.errors import Problem, problem_of_error
from server.images import Addresses
from server.labels import embeds_parameters, label_position
from server.reading import (
    Delivery,
    check_capabilities,
    choose_delivery,
    knowledge_argument,
    pipeline_arguments,
    read_generation_request,
)
from server.routes.documents import PlainRoute, json_body, problems
from server.schemas import GenerationRequest
from server.service import Service, owner_of, service_of
from server.worker import Failed, Preview, Succeeded, Ticket, Worker

router = APIRouter(route_class=PlainRoute)
Answered = TypeVar("Answered")


@router.post(
    "/generate",
    openapi_extra=json_body(GenerationRequest),
    response_class=Response,
    responses=problems(400, 408, 415, 422, 429, 503),
)
async def generate(request: Request) -> Response:
    """Draw the picture of a sentence and wait for it."""
    service = service_of(request)
    asked = await read_generation_request(request, service.settings.body_limit)
    check_capabilities(asked, service.capabilities)
    service.check_words(asked)
    service.check_label(request, asked)
    delivery = choose_delivery(asked, request.headers.get("accept", "*/*"))
    return await answer_in_time(request, service, asked, delivery, build_answer)


@dataclass(frozen=True)
class Watching:
    """A client that wants `count` previews of each picture, shown as they come."""

    count: int
    show: Callable[[Preview], None]


async def answer_in_time(
    request: Request,
    service: Service,
    asked: GenerationRequest,
    delivery: Delivery,
    build: Callable[[Finished], Answered],
    watching: Watching | None = None,
) -> Answered:
    """Draw while the client waits, and build the answer beside the event loop.

    Raises the problem of a failed run, `deadline` where the client's time is over, and those of
    `Service.addresses`.
    """
    addresses = service.addresses(request, asked)
    try:
        async with asyncio.timeout(asked.deadline_ms and asked.deadline_ms / 1000):
            with await _room(service, asked, addresses):
                done = await draw_while_client_waits(request, service, asked, watching)
                finished = Finished(
                    request=asked,
                    result=done.result,
                    delivery=delivery,
                    capabilities=service.capabilities.with_knowledge(done.result.knowledge),
                    producer=service.settings.content_producer,
                    began=request.state.began,
                    queue_seconds=done.queue_seconds,
                    label=label_position(asked, service.capabilities, service.settings),
                    embeds=embeds_parameters(service.settings, service.keys, owner_of(request)),
                    addresses=addresses,
                )
                answer = await beside_the_loop(build, finished)
    except TimeoutError:
        raise Problem("deadline", values={"received": asked.deadline_ms}) from None
    service.metrics.latency.observe(time.monotonic() - request.state.began)
    return answer


async def _room(
    service: Service, asked: GenerationRequest, addresses: Addresses | None
) -> AbstractContextManager[None]:
    """Room on the disk for pictures that are kept; `Problem` where there is none."""
    if addresses is None or service.jobs is None:
        return nullcontext()
    others = await asyncio.to_thread(service.jobs.journal.bytes_held)
    return addresses.store.room(result_bytes(asked, service.capabilities), others)


async def draw_while_client_waits(
    request: Request,
    service: Service,
    asked: GenerationRequest,
    watching: Watching | None = None,
) -> Succeeded:
    """Queue the request and wait for its end; a failed run is raised as its problem."""
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    work = WorkRequest(
        request_id=request.state.request_id,
        prompt=asked.prompt,
        arguments=pipeline_arguments(asked, seed),
        knowledge=knowledge_argument(asked),
        previews=0 if watching is None else watching.count,
        deadline_seconds=asked.deadline_ms and asked.deadline_ms / 1000,
        owner=owner_of(request),
        hears_steps=watching is not None and watching.count > 0,
    )
    service.charge(request, asked)
    ticket = service.worker.submit(work)
    leaving = asyncio.create_task(_cancel_when_client_leaves(request, service.worker, ticket))
    try:
        async for event in service.worker.events(ticket):
            if isinstance(event, Preview) and watching is not None:
                watching.show(event)
            last = event
    finally:
        leaving.cancel()
        service.worker.cancel(ticket)  # a deadline or a shutdown; nothing once it is over
    if isinstance(last, Failed):
        raise problem_of_error(last.error)
    assert isinstance(last, Succeeded), "a ticket ends with Succeeded or Failed"
    return last


async def _cancel_when_client_leaves(request: Request, worker: Worker, ticket: Ticket) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    worker.cancel(ticket)
