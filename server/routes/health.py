"""`/livez`, `/startupz`, `/readyz`, `/version`, `/metrics`: for the machinery around the server."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rapid_diffusion import __version__
from server.routes.documents import problems
from server.service import service_of

router = APIRouter()


@router.get("/livez")
async def livez() -> Response:
    """The process answers; it says nothing about the worker."""
    return JSONResponse({"status": "alive"})


@router.get("/startupz")
async def startupz() -> Response:
    """The model is loaded: nothing listens before that. Whether it still draws, `/readyz` says."""
    return JSONResponse({"status": "started"})


@router.get("/version")
async def version(request: Request) -> Response:
    """Program, model and graph: what pixels depend on besides the request."""
    able = service_of(request).capabilities
    return JSONResponse(
        {
            "version": __version__,
            "model": able.model,
            "knowledge": {"version": able.knowledge_version},
            "engine": able.engine,
        }
    )


@router.get("/readyz", responses=problems(503))
async def readyz(request: Request) -> Response:
    """200 while pictures can be drawn; 503 while draining and once the worker is dead."""
    obstacle = service_of(request).worker.obstacle
    if obstacle is not None:
        raise obstacle
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    content = generate_latest(service_of(request).metrics.registry)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})
