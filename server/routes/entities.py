"""`GET /v1/entities`: what the graph finds in a text, before anything is drawn."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.errors import invalid, problem_of_error
from server.reading import query_integer
from server.routes.documents import problems
from server.schemas import MAX_PROMPT
from server.service import service_of

_MOST_NEIGHBOURS = 100

router = APIRouter()


@router.get("/v1/entities", responses=problems(401, 403, 422, 500, 503))
async def entities(request: Request) -> Response:
    """Link the text `q` as a prompt is linked; each entity comes with facts of the graph."""
    service, text = service_of(request), request.query_params.get("q", "")
    if not text:
        raise invalid("q", "string_too_short", text, min_length=1)
    if len(text) > MAX_PROMPT:
        raise invalid("q", "string_too_long", text, max_length=MAX_PROMPT)
    neighbours = query_integer(request, "neighbours", 10, 0, _MOST_NEIGHBOURS)
    try:
        found = await asyncio.to_thread(service.worker.look_up, text, neighbours)
    except Exception as error:
        raise problem_of_error(error) from error
    return JSONResponse({"object": "list", "query": text} | found)
