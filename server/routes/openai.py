"""OpenAI's routes, for clients that know them: images and the list of models."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from server.answers import Drawn, encode_answer
from server.errors import Problem, error_object, language_of, problem_of_error
from server.openai_schemas import OpenAIRequest, generation_of
from server.reading import Delivery, check_capabilities, read_request
from server.routes.documents import json_body, problems
from server.routes.generate import answer_in_time
from server.schemas import GenerationRequest
from server.service import Service, service_of
from server.sse import HEARTBEAT_SECONDS, sse_text

router = APIRouter()


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
    drawing = asyncio.create_task(_draw(request, service, ours))
    if not asked.stream:
        drawn, prompt = await drawing
        return JSONResponse(_body(ours, drawn, prompt), headers={"Server-Timing": drawn.spent})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    # A refusal that comes at once is answered with its own status; later, the stream tells it.
    await asyncio.wait({drawing}, timeout=0.05)
    if drawing.done() and drawing.exception() is not None:
        drawing.result()
    stream = _events(request, ours, drawing)
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model that this server draws with."""
    able = service_of(request).capabilities
    model = {"id": able.name, "object": "model", "created": 0, "owned_by": "rapid-diffusion"}
    return JSONResponse({"object": "list", "data": [model | {"digest": able.digest}]})


async def _draw(request: Request, service: Service, ours: GenerationRequest) -> tuple[Drawn, str]:
    """The pictures, and the prompt with the names of its entities."""
    name = f"img_{request.state.request_id[-32:]}"
    delivery = Delivery(ours.output_format, False)
    drawn = await answer_in_time(
        request, service, ours, delivery, lambda finished: encode_answer(finished, name)
    )
    return drawn, _revised(ours.prompt, drawn.body["entities"])


async def _events(
    request: Request, ours: GenerationRequest, drawing: "asyncio.Task[tuple[Drawn, str]]"
) -> AsyncIterator[str]:
    try:
        while not drawing.done():
            yield ": drawing\n\n"
            await asyncio.wait({drawing}, timeout=HEARTBEAT_SECONDS)
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
    pairs = zip(drawn.body["data"], drawn.images, strict=True)
    data = [{**entry, "b64_json": i.base64(), "revised_prompt": prompt} for entry, i in pairs]
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
