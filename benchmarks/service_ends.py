"""Deaths and shutdowns: `python benchmarks/service.py deaths|shutdowns`.

Worker processes are killed and stopped under load, and three signals are sent to the worker, to the
server and to both, at rest and at work: nothing that was accepted may be lost.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from micro_server import THREADS, MicroServer, free_port, start

from rapid_diffusion.testing import build_micro_model
from server.settings import Settings

LONG = {"prompt": "老虎", "seed": 7, "num_inference_steps": 100, "num_images_per_prompt": 8}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
PATIENCE = 300.0  # seconds; nothing that is right takes so long, on a busy machine either


def wait_for(server: MicroServer, status: int) -> float:
    """Seconds until `/readyz` answers that."""
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        if server.status("/readyz") == status:
            return time.monotonic() - began
        time.sleep(0.01)
    raise TimeoutError(f"/readyz did not become {status}")


def worker_of(server: MicroServer) -> psutil.Process:
    """The process that draws: the fork server's child."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    (worker,) = [one for one in family if one.ppid() != server.process.pid]
    return worker


def deaths(folder: Path, times: int) -> dict[str, Any]:
    """Seconds until a lost worker is told by `/readyz`, and until there is another."""
    model = build_micro_model(folder / "micro")
    settings = Settings(
        model=str(model), port=free_port(), threads=THREADS, silence_seconds=3.0, hang_seconds=120
    )
    server = start(settings)
    told: dict[str, list[float]] = {"SIGKILL": [], "SIGSTOP": []}
    back: dict[str, list[float]] = {"SIGKILL": [], "SIGSTOP": []}
    try:
        for number in range(2 * times):
            name = ("SIGKILL", "SIGSTOP")[number % 2]
            wait_for(server, 200)
            worker_of(server).send_signal(getattr(signal, name))
            told[name].append(round(wait_for(server, 503), 2))
            back[name].append(round(wait_for(server, 200), 2))
    finally:
        server.process.terminate()
        server.process.join()
    slowest = [
        max(value for values in times.values() for value in values) for times in (told, back)
    ]
    return {
        "told_after_seconds": told,
        "back_after_seconds": back,
        "slowest_told": slowest[0],
        "slowest_back": slowest[1],
    }


@dataclass
class Cell:
    """One signal to one target; `answer` is of the request that was drawn then."""

    signal: str
    target: str
    loaded: bool
    answer: str = "none"
    jobs: list[str] = field(default_factory=list)
    left_over: int = 0  # processes that stayed behind
    kept: bool = False


def shutdowns(folder: Path) -> list[Cell]:
    """All eighteen cells."""
    model = build_micro_model(folder / "micro")
    return [
        run_cell(model, folder, Cell(number.name, target, loaded), number)
        for number in SIGNALS
        for target in ("worker", "server", "tree")
        for loaded in (False, True)
    ]


def run_cell(model: Path, folder: Path, cell: Cell, number: signal.Signals) -> Cell:
    """One server, one signal, and what became of everything."""
    state = folder / f"{cell.signal}-{cell.target}-{cell.loaded}"
    settings = Settings(model=str(model), port=free_port(), threads=THREADS, state=state)
    server = start(settings)
    family = psutil.Process(server.process.pid).children(recursive=True)
    worker, asked = worker_of(server), threading.Thread(target=lambda: None)
    names: list[str] = []
    if cell.loaded:
        body = {"prompt": "老虎", "num_inference_steps": 50}
        names = [httpx.post(f"{server.url}/v1/jobs", json=body).json()["id"] for _ in range(3)]
        asked = threading.Thread(target=_ask, args=(server.url, cell))
    asked.start()
    time.sleep(0.5)
    targets = {"worker": [worker.pid], "server": [server.process.pid]}
    for pid in targets.get(cell.target, [server.process.pid, worker.pid]):
        assert pid is not None
        os.kill(pid, number)
    asked.join()
    if cell.target == "worker":
        wait_for(server, 200)
        cell.jobs = _statuses(server.url, names)
        server.process.terminate()
    server.process.join()
    cell.left_over = len(psutil.wait_procs(family, timeout=30)[1])
    if cell.target != "worker" and names:
        cell.jobs = _after_restart(settings, names)
    finished = cell.signal != "SIGKILL" or cell.target == "worker"
    wanted = ("200" if finished else "broken") if cell.loaded else "none"
    done = cell.jobs == ["succeeded"] * len(names)
    cell.kept = cell.answer == wanted and done and not cell.left_over
    return cell


def _ask(url: str, cell: Cell) -> None:
    try:
        cell.answer = str(httpx.post(f"{url}/generate", json=LONG, timeout=PATIENCE).status_code)
    except httpx.HTTPError:
        cell.answer = "broken"


def _after_restart(settings: Settings, names: list[str]) -> list[str]:
    server = start(settings.model_copy(update={"worker_process": False}))
    try:
        return _statuses(server.url, names)
    finally:
        server.process.terminate()
        server.process.join()


def _statuses(url: str, names: list[str]) -> list[str]:
    """How the jobs ended."""
    ends = []
    with httpx.Client(base_url=url, timeout=90) as client:
        for name in names:
            job: dict[str, Any] = {"status": "queued"}
            while job["status"] in ("queued", "running"):
                job = client.get(f"/v1/jobs/{name}", params={"wait": 30}).json()
            ends.append(str(job["status"]))
    return ends
