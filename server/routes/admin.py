"""`/admin/…`: what operators ask of a running server, on a port of their own."""

import asyncio
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.control import Control
from server.routes.documents import problems

router = APIRouter(prefix="/admin")


@router.post("/knowledge/reload", responses=problems(401, 403, 409, 500, 503))
async def reload_knowledge(request: Request) -> Response:
    """Exchange the graph for the version that is active in its folder; answered when it is used."""
    exchanged = await asyncio.to_thread(_control(request).reload_graph)
    return JSONResponse(asdict(exchanged))


@router.post("/words/reload", responses=problems(401, 403, 409, 500))
async def reload_words(request: Request) -> Response:
    """Read the word list again; answered when it is in force, with the number of its terms."""
    count = await asyncio.to_thread(_control(request).reload_words)
    return JSONResponse({"terms": count})


@router.post("/drain", status_code=202, responses=problems(401, 403, 500))
async def drain(request: Request) -> Response:
    """Take nothing new, and finish what was accepted; asked again, it says how much is left."""
    return JSONResponse(await asyncio.to_thread(_control(request).drain), 202)


def _control(request: Request) -> Control:
    control = request.app.state.control
    assert isinstance(control, Control)
    return control
