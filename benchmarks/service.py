"""How the service survives: `python benchmarks/service.py --kills 200 --jobs 100`.

Servers over one state folder are killed (SIGKILL) at random points while jobs are accepted and
drawn; every accepted job must come out, with the pixels that the library draws for its seed.
"""

import argparse
import json
import multiprocessing
import random
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.images.label import draw_label
from rapid_diffusion.testing import build_micro_model
from server.encoding import pixel_sha256
from server.main import run
from server.settings import Settings

THREADS = 1


@dataclass
class Survival:
    """What came of it; `lost` and `different` should be 0."""

    kills: int = 0
    accepted: int = 0
    interrupted: int = 0
    lost: int = 0
    different: int = 0
    seen: dict[str, list[str]] = field(default_factory=dict)


def survive(model: Path, state: Path, kills: int, jobs: int, *, own_process: bool) -> Survival:
    """Kill `kills` servers while `jobs` jobs are drawn, then let the last one finish them."""
    report, chance = Survival(), random.Random(0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = Settings(
        model=str(model), port=port, state=state, threads=THREADS, worker_process=own_process
    )
    rounds = kills + 1
    for number in range(rounds):
        server = _start(settings)
        due = jobs * (number + 1) // rounds - jobs * number // rounds
        if number < kills:
            timer = threading.Timer(chance.uniform(0.0, 0.5), server.kill)
            timer.start()
            _ask(port, due, report)
            timer.join()
            report.kills += 1
        else:
            _ask(port, due, report)
            _collect(port, model, report)
            server.terminate()
        server.join()
    return report


def _start(settings: Settings) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "numpy"])
    server = context.Process(target=run, args=(settings,))
    server.start()
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{settings.port}/livez", timeout=5)
        except httpx.HTTPError:
            assert server.is_alive(), "the server did not start"
            time.sleep(0.01)
        else:
            return server


def _ask(port: int, count: int, report: Survival) -> None:
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
            report.interrupted += job.get("attempts", 0) > 1
            if job["status"] != "succeeded":
                report.lost += 1
                continue
            drawn = pipeline("老虎", seed=job["seed"], num_inference_steps=20, output_type="numpy")
            wanted = pixel_sha256(draw_label(drawn.images[0]))
            got = {*seen, job["result"]["data"][0]["pixel_sha256"]}
            report.different += got != {wanted}


def main() -> None:
    """Print the figures as one JSON object; the exit code says whether all survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--own-process", action="store_true", help="the worker in its own process")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model, state = build_micro_model(Path(folder) / "micro"), Path(folder) / "state"
        report = survive(model, state, given.kills, given.jobs, own_process=given.own_process)
    facts = {name: value for name, value in asdict(report).items() if name != "seen"}
    print(json.dumps(facts | {"seconds": round(time.monotonic() - began, 1)}))
    raise SystemExit(bool(report.lost or report.different))


if __name__ == "__main__":
    main()
