"""Many, too many, one client: `python benchmarks/service.py load|overload|overhead`.

All figures are of the micro model on this machine's processor; the clients run on it too.
"""

import asyncio
import contextlib
import http.client
import json
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from micro_server import MicroServer, running

from rapid_diffusion import RapidDiffusionPipeline

PROMPT = "老虎"


@dataclass
class Answers:
    """What came back: statuses, seconds of each answer, and the first few that were wrong."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    unexplained: int = 0  # refusals without Retry-After

    def note(self, answer: httpx.Response | None, seconds: float) -> None:
        """One answer; None where the connection broke."""
        self.statuses["broken" if answer is None else str(answer.status_code)] += 1
        self.seconds.append(seconds)
        if answer is not None and answer.status_code == 503:
            self.unexplained += not answer.headers.get("retry-after", "").isdecimal()

    def per_second(self, seconds: float) -> float:
        """Pictures in a second."""
        return self.statuses["200"] / seconds

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        ordered = sorted(self.seconds)
        places = {"p50": 0.5, "p99": 0.99}
        quantiles = {k: round(ordered[int(q * (len(ordered) - 1))], 4) for k, q in places.items()}
        return {"statuses": dict(self.statuses), "latency_seconds": quantiles}


async def ask(client: httpx.AsyncClient, answers: Answers, body: dict[str, Any]) -> None:
    """One picture."""
    began = time.monotonic()
    try:
        answer: httpx.Response | None = await client.post("/generate", json=body)
    except httpx.HTTPError:
        answer = None
    answers.note(answer, time.monotonic() - began)


async def closed_loop(
    server: MicroServer, clients: int, more: Callable[[], bool], body: dict[str, Any]
) -> Answers:
    """So many clients, each asking again as soon as it is answered, while `more()`."""
    answers, seeds = Answers(), iter(range(10**9))

    async def work(client: httpx.AsyncClient) -> None:
        while more():
            await ask(client, answers, body | {"seed": next(seeds) % 50})

    async with connected(server, clients) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return answers


async def open_loop(
    server: MicroServer, rate: float, seconds: float, body: dict[str, Any]
) -> Answers:
    """`rate` requests a second, whether or not the earlier ones are answered."""
    answers, due = Answers(), time.monotonic()
    end, asking = due + seconds, set[Awaitable[None]]()
    async with connected(server, 2000) as client:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asking.add(asyncio.ensure_future(ask(client, answers, body | {"seed": 1})))
            due += 1 / rate
        await asyncio.gather(*asking)
    return answers


def connected(server: MicroServer, most: int) -> httpx.AsyncClient:
    """A client with room for so many connections."""
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return httpx.AsyncClient(base_url=server.url, limits=limits, timeout=600)


def load(folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """10,000 requests of 64 clients; the processor time of the event loop's turns meanwhile."""
    body = {"prompt": PROMPT, "num_inference_steps": 1, "upscale": 1}
    left = iter(range(requests))
    turns = folder / "turns.json"
    with running(folder, turns=turns, queue_size=256) as server:
        began = time.monotonic()
        more = lambda: next(left, None) is not None  # noqa: E731
        answers = asyncio.run(closed_loop(server, clients, more, body))
        seconds = time.monotonic() - began
    rate = round(answers.per_second(seconds), 1)
    return {
        "requests": requests,
        "clients": clients,
        "errors": requests - answers.statuses["200"],
        "per_second": rate,
        **answers.facts(),
        "loop_turn_cpu_ms": turns_of(turns),
    }


def turns_of(path: Path) -> dict[str, float]:
    """What the server wrote down of its event loop's turns."""
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def overload(folder: Path, seconds: float, times: float) -> dict[str, Any]:
    """The rate of pictures with a client a place, and with `times` as many requests as that."""
    body = {"prompt": PROMPT, "num_inference_steps": 80, "num_images_per_prompt": 2}
    with running(folder, queue_size=8, queue_seconds=3600) as server:
        process = psutil.Process(server.process.pid)
        capacities, goodputs, memory = [], [], [tree_bytes(process)]
        refused, unexplained, others = 0, 0, 0
        for _ in range(3):  # in turns: the machine is not as fast at all times
            end = time.monotonic() + seconds
            alone = asyncio.run(closed_loop(server, 4, lambda: time.monotonic() < end, body))  # noqa: B023
            capacities.append(alone.per_second(time.monotonic() - end + seconds))
            began = time.monotonic()
            flooded = asyncio.run(open_loop(server, times * capacities[-1], seconds, body))
            goodputs.append(flooded.per_second(time.monotonic() - began))
            refused += flooded.statuses["503"]
            unexplained += flooded.unexplained
            others += sum(c for s, c in flooded.statuses.items() if s not in ("200", "503"))
            memory.append(tree_bytes(process))
    return {
        "times": times,
        "capacity_per_second": [round(rate, 2) for rate in capacities],
        "goodput_per_second": [round(rate, 2) for rate in goodputs],
        "goodput_ratio": round(sum(goodputs) / sum(capacities), 3),
        "refused": refused,
        "refused_without_retry_after": unexplained,
        "other_statuses": others,
        "memory_mib": [round(held / 2**20, 1) for held in memory],
    }


def overhead(folder: Path, requests: int) -> dict[str, Any]:
    """Milliseconds of an answer that are neither the engine's nor encoding; one client.

    The engine says what its stations took; what lies between them is measured without a service.
    From the first byte sent to the last one received, by the plainest client there is: httpx would
    add 2 ms of its own.
    """
    body = {"prompt": PROMPT, "num_inference_steps": 10, "upscale": 1}
    found: list[float] = []
    with running(folder) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        process, spent = psutil.Process(server.process.pid), 0.0
        for number in range(requests + 20):
            content = json.dumps(body | {"seed": number})
            began = time.perf_counter()
            client.request("POST", "/generate", content, {"Content-Type": "application/json"})
            answer = client.getresponse().read()
            whole = 1000 * (time.perf_counter() - began)
            told = json.loads(answer)["timings_ms"]
            own = sum(ms for name, ms in told.items() if name not in ("queue", "total"))
            if number == 19:
                spent = sum(process.cpu_times()[:2])
            elif number > 19:
                found.append(whole - own)
        spent = sum(process.cpu_times()[:2]) - spent
        client.close()
    between = between_stations(folder / "micro", body, requests)
    deciles = statistics.quantiles([each - between for each in found], n=10)
    return {
        "requests": requests,
        "overhead_ms": {"p10": round(deciles[0], 2), "p50": round(deciles[4], 2)},
        "server_cpu_ms": round(1000 * spent / requests, 2),  # of the API's process, with encoding
        "p90_ms": round(deciles[-1], 2),
        "engine_between_stations_ms": round(between, 2),
    }


def between_stations(model: Path, body: dict[str, Any], times: int) -> float:
    """Milliseconds of a call of the engine that belong to no station of it; the median."""
    pipeline = RapidDiffusionPipeline.from_pretrained(model, device="cpu").share_engine()
    found = []
    for seed in range(times):
        began = time.perf_counter()
        timings = pipeline(**body, seed=seed, output_type="numpy").timings
        found.append(1000 * (time.perf_counter() - began - sum(timings.values())))
    return statistics.median(found)


def tree_bytes(process: psutil.Process) -> int:
    """The memory of a server and its worker that is theirs alone (USS)."""
    held = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker may be lost meanwhile
            held += one.memory_full_info().uss
    return held
