"""Killed servers: `python benchmarks/service.py kills --kills 200 --jobs 100`.

Servers over one state folder are killed (SIGKILL) at random points while jobs are accepted and
drawn; every accepted job must come out, with the pixels that the library draws for its seed.
"""

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from micro_server import THREADS, free_port, start

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.images.label import draw_label
from server.encoding import pixel_sha256
from server.settings import Settings


@dataclass
class Survival:
    """What came of it; `lost` and `different` should be 0."""

    kills: int = 0
    accepted: int = 0
    interrupted: int = 0
    lost: int = 0
    different: int = 0
    most_attempts: int = 0
    ends: dict[str, int] = field(default_factory=dict)  # how jobs ended, by status or error
    seen: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How often to kill, while how many jobs are asked for, and how long that may go on."""

    kills: int = 200
    jobs: int = 100
    window: float = 0.5  # seconds after the server answers, in which it is killed
    minutes: float = 60.0
    own_process: bool = False


def survive(model: Path, state: Path, plan: Plan) -> Survival:
    """Kill servers while jobs are drawn, then let the last one finish them."""
    report, chance, end = Survival(), random.Random(0), time.monotonic() + 60 * plan.minutes
    settings = Settings(
        model=str(model),
        port=free_port(),
        state=state,
        threads=THREADS,
        worker_process=plan.own_process,
    )
    while report.kills < plan.kills and time.monotonic() < end:
        server, number = start(settings).process, report.kills
        due = plan.jobs * (number + 1) // plan.kills - report.accepted  # with those not answered
        timer = threading.Timer(chance.uniform(0.0, plan.window), server.kill)
        # On a slow machine nothing would be accepted in time: most kills wait for the first job.
        if not due or chance.random() < 0.3:
            timer.start()
        _ask(settings.port, due, report, timer)
        if timer.ident is None:
            timer.start()
        timer.join()
        server.join()
        report.kills += 1
    server = start(settings).process
    _collect(settings.port, model, report)
    server.terminate()
    server.join()
    return report


def _ask(port: int, count: int, report: Survival, timer: threading.Timer) -> None:
    """Send jobs; what was answered with 202 is accepted, what got no answer is nobody's promise."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(count):
            try:
                body = {"prompt": "老虎", "num_inference_steps": 20}
                answer = client.post("/v1/jobs", json=body)
            except httpx.HTTPError:
                return
            assert answer.status_code == 202, answer.text
            report.seen[answer.json()["id"]] = []
            report.accepted += 1
            if timer.ident is None:
                timer.start()
            _look(client, report)


def _look(client: httpx.Client, report: Survival) -> None:
    """Note the pixels of whatever is finished, so that a second delivery can be compared."""
    try:
        found = client.get("/v1/jobs", params={"limit": 5}).json()["data"]
    except httpx.HTTPError:
        return
    for job in found:
        if job["status"] == "succeeded" and job["id"] in report.seen:
            report.seen[job["id"]].append(job["result"]["data"][0]["pixel_sha256"])


def _collect(port: int, model: Path, report: Survival) -> None:
    # With another number of threads sums are taken in another order: as many as the servers had.
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        _compare(port, RapidDiffusionPipeline.from_pretrained(model, device="cpu"), report)
    finally:
        torch.set_num_threads(threads)


def _compare(port: int, pipeline: RapidDiffusionPipeline, report: Survival) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90) as client:
        for name, seen in report.seen.items():
            job: dict[str, Any] = {"status": "queued"}
            while job["status"] in ("queued", "running"):
                job = client.get(f"/v1/jobs/{name}", params={"wait": 30}).json()
            _count(job, report)
            if job["status"] != "succeeded":
                report.lost += 1
                continue
            drawn = pipeline("老虎", seed=job["seed"], num_inference_steps=20, output_type="numpy")
            wanted = pixel_sha256(draw_label(drawn.images[0]))
            got = {*seen, job["result"]["data"][0]["pixel_sha256"]}
            report.different += got != {wanted}


def _count(job: dict[str, Any], report: Survival) -> None:
    """How it ended, and how often it was begun; a job that nobody knows is a problem's answer."""
    attempts = job.get("attempts", 0)
    report.interrupted += attempts > 1
    report.most_attempts = max(report.most_attempts, attempts)
    end = str((job.get("error") or {}).get("code", job["status"]))
    report.ends[end] = report.ends.get(end, 0) + 1
