"""`/v1/jobs`: drawings that outlive their connection, and the server."""

import asyncio
import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from server.errors import Problem, invalid
from server.job_schemas import JobRequest, check_job
from server.jobs import Jobs
from server.journal import JobRecord
from server.live import LiveJob
from server.reading import query_integer, read_request
from server.routes.documents import json_body, problems
from server.service import Service, owner_of, service_of
from server.sse import event_stream
from server.webhooks import check_webhook

_KEY = re.compile(r"[!-~]{1,255}")
_MOST_WAIT = 60

router = APIRouter()


@router.post(
    "/v1/jobs",
    status_code=202,
    openapi_extra=json_body(JobRequest),
    responses=problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503),
)
async def create(request: Request) -> Response:
    """Accept a job; when this is answered, the job survives the death of the server."""
    service, jobs = _parts(request)
    asked = await read_request(request, service.settings.body_limit, JobRequest)
    check_job(asked, service.capabilities)
    service.check_words(asked)
    if asked.webhook is not None:
        check_webhook(asked.webhook, service.settings)
    service.check_label(request, asked)
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "idempotency_key", key)
    service.charge(request, asked)
    record = await jobs.accept(asked, owner_of(request), key)
    headers = {"Location": f"/v1/jobs/{record.id}"}
    return JSONResponse(job_view(jobs, record), 202, headers)


@router.get("/v1/jobs", responses=problems(401, 403, 404, 410, 422, 500, 503))
async def recent(request: Request) -> Response:
    """The latest jobs, newest first; `after` is the id of the last one of the page before."""
    _, jobs = _parts(request)
    limit, after = query_integer(request, "limit", 20, 1, 100), request.query_params.get("after")
    owner = owner_of(request)
    before = None if after is None else (await jobs.find(after, owner)).sequence
    found = await asyncio.to_thread(jobs.journal.recent, owner, before, limit + 1)
    places = jobs.queue.places()  # once: ordering the queue for each of them would take long
    data = [job_view(jobs, record, places) for record in found[:limit]]
    return JSONResponse({"object": "list", "data": data, "has_more": len(found) > limit})


@router.get("/v1/jobs/{job_id}", responses=problems(401, 403, 404, 410, 422, 500, 503))
async def read(request: Request, job_id: str) -> Response:
    """One job; with `wait`, the answer comes when it is over or after so many seconds."""
    service, jobs = _parts(request)
    wait = query_integer(request, "wait", 0, 0, _MOST_WAIT)
    record = await jobs.find(job_id, owner_of(request))
    live = jobs.live.get(job_id)
    if live is not None and wait:
        await _over_or_draining(live, service, wait)
    record = await jobs.find(job_id, owner_of(request))
    return JSONResponse(job_view(jobs, record))


@router.post("/v1/jobs/{job_id}/cancel", responses=problems(401, 403, 404, 409, 410, 500, 503))
async def cancel(request: Request, job_id: str) -> Response:
    """End a job; answered when it has ended."""
    _, jobs = _parts(request)
    record = await jobs.cancel(await jobs.find(job_id, owner_of(request)))
    return JSONResponse(job_view(jobs, record))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        **problems(401, 403, 404, 410, 422, 500, 503),
    },
)
async def events(request: Request, job_id: str) -> Response:
    """The job's events as they come, from the one after `Last-Event-ID` on."""
    service, jobs = _parts(request)
    last = request.headers.get("last-event-id", "0")
    if not last.isdecimal() or len(last) > 15:
        raise invalid("Last-Event-ID", "int_type", last)
    record = await jobs.find(job_id, owner_of(request))
    stream = event_stream(jobs.live.get(job_id), record, int(last), service.worker)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


@router.get(
    "/v1/jobs/{job_id}/images/{index}",
    response_class=FileResponse,
    responses={200: {"content": {"image/*": {}}}, **problems(401, 403, 404, 410, 422, 500, 503)},
)
async def image(request: Request, job_id: str, index: str) -> Response:
    """One picture of a job that succeeded."""
    _, jobs = _parts(request)
    record = await jobs.find(job_id, owner_of(request))
    pictures = (record.result or {}).get("data", [])
    if not index.isdecimal() or len(index) > 2 or int(index) >= len(pictures):
        raise Problem("not_found", values={"received": request.url.path})
    picture = pictures[int(index)]
    name = f"{int(index)}.{picture['mime_type'].partition('/')[2]}"
    path = await asyncio.to_thread(jobs.store.find, record.id, name)
    if path is None:
        raise Problem("not_found", values={"received": request.url.path})
    headers = {"X-Pixel-SHA256": picture["pixel_sha256"], "Cache-Control": "private, immutable"}
    return FileResponse(path, media_type=picture["mime_type"], headers=headers)


async def _over_or_draining(live: LiveJob, service: Service, seconds: int) -> None:
    over = asyncio.ensure_future(live.over.wait())
    for _ in range(4 * seconds):
        done, _pending = await asyncio.wait({over}, timeout=0.25)
        if done or service.worker.is_draining:
            break
    over.cancel()


def _parts(request: Request) -> tuple[Service, Jobs]:
    service = service_of(request)
    if service.jobs is None:
        raise Problem("jobs_off")
    return service, service.jobs


def job_view(
    jobs: Jobs, record: JobRecord, places: dict[str, tuple[int, float]] | None = None
) -> dict[str, Any]:
    """A job as its client sees it; times are seconds since 1970. `places`: those of the queue."""
    live = jobs.live.get(record.id)
    if places is None:
        places = {} if live is None else jobs.queue.places()
    position, seconds = places.get(record.id, (None, 0.0))
    view: dict[str, Any] = {
        "id": record.id,
        "object": "job",
        "status": record.status,
        "created": record.created,
        "started": record.started,
        "finished": record.finished,
        "attempts": record.attempts,
        "priority": record.priority,
        "seed": record.seed,
        "request": record.request,
        "queue_position": position,
        "error": record.error,
        "result": record.result,
    }
    if position is not None:
        view["estimated_start_ms"] = round(1000 * seconds)
    if live is not None and live.progress is not None:
        view["progress"] = {"step": live.progress[0], "steps": live.progress[1]}
    return view
