"""`GET /v1/images/{id}/{index}`: pictures that were answered by address."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.errors import Problem
from server.routes.documents import problems
from server.service import owner_of, service_of

router = APIRouter()


@router.get(
    "/v1/images/{image_id}/{index}",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}, **problems(401, 403, 404, 410, 500)},
)
async def image(request: Request, image_id: str, index: str) -> Response:
    """One picture of an answer with `response_format` url, for the key that asked for it."""
    jobs = service_of(request).jobs
    if jobs is None:
        raise Problem("jobs_off")
    kept = await asyncio.to_thread(jobs.images.read, image_id, index, owner_of(request))
    headers = {"X-Pixel-SHA256": kept.pixel_sha256, "Cache-Control": "private, immutable"}
    return Response(kept.content, headers=headers, media_type=kept.mime_type)
