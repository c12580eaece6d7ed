"""OpenAI's routes, for clients that know them: images and the list of models."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from server.answers import Drawn, encode_answer, give_pictures, new_answer_id
from server.encoding import beside_the_loop
from server.errors import Problem, error_object, language_of, problem_of_error
from server.openai_schemas import OpenAIRequest, generation_of
from server.previews import PARTIAL_IMAGE, partial_event, preview_style
from server.reading import Delivery, check_capabilities, read_request
from server.routes.documents import PlainRoute, json_body, problems
from server.routes.generate import Watching, answer_in_time
from server.schemas import GenerationRequest
from server.service import Service, service_of
from server.sse import HEARTBEAT_SECONDS, sse_text
from server.worker import Preview

_FIRST = asyncio.FIRST_COMPLETED

router = APIRouter(route_class=PlainRoute)


@router.post(
    "/v1/images/generations",
    openapi_extra=json_body(OpenAIRequest),
    responses={
        200: {"content": {"application/json": {}, "text/event-stream": {}}},
        **problems(400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def generations(request: Request) -> Response:
    """OpenAI's images; with `stream`, an event a picture, after heartbeats while it is drawn."""
    service = service_of(request)
    asked = await read_request(request, service.settings.body_limit, OpenAIRequest)
    ours = generation_of(asked, service.capabilities)
    check_capabilities(ours, service.capabilities)
    service.check_words(ours)
    service.check_label(request, ours)
    stream = _Stream(request, service, ours, asked.partial_images or 0)
    drawing = asyncio.create_task(stream.draw())
    if not asked.stream:
        drawn, prompt = await drawing
        body, spent = _body(ours, drawn, prompt), {"Server-Timing": drawn.spent}
        # In a thread: megabytes of base64 would hold up the event loop.
        return await beside_the_loop(JSONResponse, body, 200, spent)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    # A refusal that comes at once is answered with its own status; later, the stream tells it.
    await asyncio.wait({drawing}, timeout=0.05)
    if drawing.done() and drawing.exception() is not None:
        drawing.result()
    events = _events(request, stream, drawing)
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model that this server draws with."""
    able = service_of(request).capabilities
    model = {"id": able.name, "object": "model", "created": 0, "owned_by": "rapid-diffusion"}
    return JSONResponse({"object": "list", "data": [model | {"digest": able.digest}]})


@dataclass
class _Stream:
    """One request that is drawn, and the previews that have come."""

    request: Request
    service: Service
    asked: GenerationRequest
    partial_images: int
    previews: "asyncio.Queue[Preview]" = field(default_factory=asyncio.Queue)
    name: str = field(default_factory=new_answer_id)

    async def draw(self) -> tuple[Drawn, str]:
        """The pictures, and the prompt with the names of its entities."""
        drawn = await answer_in_time(
            self.request,
            self.service,
            self.asked,
            Delivery(self.asked.output_format, False),
            lambda f: give_pictures(encode_answer(f, self.name), f.addresses),
            Watching(self.partial_images, self.previews.put_nowait),
        )
        return drawn, _revised(self.asked.prompt, drawn.body["entities"])

    async def shown(self, drawing: "asyncio.Task[Any]") -> AsyncGenerator[str]:
        """An event for each preview, a comment where nothing comes, until the drawing is done."""
        service = self.service
        style = preview_style(self.asked, service.capabilities, service.settings, self.name)
        yield ": drawing\n\n"
        while not drawing.done() or not self.previews.empty():
            coming = asyncio.ensure_future(self.previews.get())
            try:
                await asyncio.wait({drawing, coming}, timeout=HEARTBEAT_SECONDS, return_when=_FIRST)
            finally:  # whoever leaves leaves no task behind
                is_there = coming.done() or not coming.cancel()
            if is_there:
                event = await beside_the_loop(partial_event, coming.result(), style)
                yield sse_text(PARTIAL_IMAGE, event)
            elif not drawing.done():
                yield ": drawing\n\n"


async def _events(
    request: Request, stream: _Stream, drawing: "asyncio.Task[tuple[Drawn, str]]"
) -> AsyncIterator[str]:
    ours = stream.asked
    try:
        async with aclosing(stream.shown(drawing)) as texts:
            async for text in texts:
                yield text
        drawn, prompt = drawing.result()
    except Exception as error:  # noqa: BLE001  the status is sent: the stream tells what is wrong
        problem = error if isinstance(error, Problem) else problem_of_error(error)
        told = error_object(problem.code, problem.param, problem.values, language_of(request))
        yield sse_text("error", {"type": "error", "error": told})
        return
    finally:
        drawing.cancel()
    for entry in _body(ours, drawn, prompt)["data"]:
        event = {"type": "image_generation.completed", "created_at": drawn.body["created"]}
        yield sse_text(event["type"], event | _facts(ours, drawn) | entry)


def _body(ours: GenerationRequest, drawn: Drawn, prompt: str) -> dict[str, Any]:
    """OpenAI's answer; our own facts stand beside its fields."""
    data = [{**entry, "revised_prompt": prompt} for entry in drawn.body["data"]]
    return drawn.body | _facts(ours, drawn) | {"data": data}


def _facts(ours: GenerationRequest, drawn: Drawn) -> dict[str, Any]:
    first = drawn.images[0]
    return {
        "size": f"{first.width}x{first.height}",
        "output_format": ours.output_format,
        "quality": "auto",
        "background": "opaque",
    }


def _revised(prompt: str, entities: list[dict[str, Any]]) -> str:
    """The prompt with every linked surface replaced by its entity's name, from the end on."""
    for entity in sorted(entities, key=lambda e: int(e["start"]), reverse=True):
        prompt = prompt[: entity["start"]] + entity["name"] + prompt[entity["end"] :]
    return prompt
