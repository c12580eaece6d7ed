"""One job, from the queue to files: the worker's events become the job's, its result is stored."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rapid_diffusion.errors import CanceledError
from server.answers import Finished, encode_answer
from server.capabilities import Capabilities
from server.device import WorkerLostError, WorkRequest
from server.encoding import beside_the_loop
from server.errors import Problem, error_object, problem_of_error
from server.labels import embeds_parameters, label_position
from server.live import LiveJob
from server.previews import PARTIAL_IMAGE, partial_event, preview_style
from server.reading import Delivery, final_size, knowledge_argument, pipeline_arguments
from server.results import ResultStore
from server.schemas import GenerationRequest
from server.settings import Settings
from server.worker import Failed, Preview, Progress, Started, Succeeded, Worker

if TYPE_CHECKING:
    from server.jobs import Jobs


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended: its status, its result or error, and the bytes of its files."""

    status: str
    content: dict[str, Any] | None
    size: int = 0


async def draw_job(
    jobs: "Jobs", live: LiveJob, worker: Worker, able: Capabilities, settings: Settings
) -> JobOutcome | None:
    """Draw a job and store its pictures; None where it was interrupted and stays to be drawn."""
    began = time.monotonic()
    try:
        live.ticket = worker.submit(_work(live), accepted=True)
    except Problem:  # draining, or the worker was lost just now: the job waits on
        return jobs.put_back(live)
    if live.ending is not None:
        worker.cancel(live.ticket)
    async for event in worker.events(live.ticket):
        if isinstance(event, Started):
            await _begin(jobs, live)
        elif isinstance(event, Progress):
            live.progress = (event.step, event.steps)
            live.publish("progress", {"step": event.step, "steps": event.steps})
        elif isinstance(event, Preview):
            style = preview_style(live.asked, able, settings, live.record.id)
            live.publish(PARTIAL_IMAGE, await beside_the_loop(partial_event, event, style))
        else:
            last = event
    if isinstance(last, Failed):
        return _failed(live, last.error)
    assert isinstance(last, Succeeded), "a ticket ends with Succeeded or Failed"
    finished = Finished(
        request=live.asked,
        result=last.result,
        delivery=Delivery(live.asked.output_format, False),
        capabilities=able.with_knowledge(last.result.knowledge),
        producer=settings.content_producer,
        began=began,
        queue_seconds=last.queue_seconds,
        label=label_position(live.asked, able, settings),
        embeds=embeds_parameters(settings, jobs.keys, live.record.owner),
    )
    return await asyncio.to_thread(_store, jobs.store, live.record.id, finished)


def outcome_of_error(error: BaseException) -> JobOutcome:
    """A failed job, in English: nobody's language is known when it is written down."""
    problem = error if isinstance(error, Problem) else problem_of_error(error)
    return JobOutcome("failed", error_object(problem.code, problem.param, problem.values, "en"), 0)


def result_bytes(asked: GenerationRequest, able: Capabilities) -> int:
    """The most that a request's files can take: raw pixels, and some room for the metadata."""
    height, width = final_size(asked, able)
    return int(asked.num_images_per_prompt * (3 * height * width + 32_768))


def _work(live: LiveJob) -> WorkRequest:
    record = live.record
    return WorkRequest(
        request_id=record.id,
        prompt=live.asked.prompt,
        arguments=pipeline_arguments(live.asked, record.seed),
        knowledge=knowledge_argument(live.asked),
        previews=live.asked.partial_images,
        owner=record.owner,
    )


async def _begin(jobs: "Jobs", live: LiveJob) -> None:
    number = live.begin_attempt()
    live.record = await jobs.written(jobs.journal.start, live.record.id, number)
    live.publish("started", {"attempt": live.record.attempts})


def _failed(live: LiveJob, error: BaseException) -> JobOutcome | None:
    if isinstance(error, CanceledError):
        # Nobody asked for it: the server is ending, and the next one takes the job up.
        return None if live.ending is None else JobOutcome(live.ending, None)
    if isinstance(error, WorkerLostError):
        return None
    return outcome_of_error(error)


def _store(store: ResultStore, job_id: str, finished: Finished) -> JobOutcome:
    drawn = encode_answer(finished, job_id)
    kind = finished.delivery.image_format
    files = {f"{index}.{kind}": image.content for index, image in enumerate(drawn.images)}
    try:
        size = store.write(job_id, files)
    except OSError as error:
        reason = error.strerror or "disk"
        return outcome_of_error(Problem("storage_unavailable", values={"reason": reason}))
    for index, entry in enumerate(drawn.body["data"]):
        entry["url"] = f"/v1/jobs/{job_id}/images/{index}"
    return JobOutcome("succeeded", drawn.body, size)
