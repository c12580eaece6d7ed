"""An hour of everything at once: `python benchmarks/service.py soak --minutes 60` (`make soak`).

Clients draw, send nonsense, leave, make jobs, cancel them and read them back, and an operator has
the graph exchanged each minute (SIGHUP). A picture whose pixels are not those of the first time
with its seed is wrong, and so is a status that is not meant.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from micro_server import running
from service_load import connected, tree_bytes

CLIENTS = 8
SAMPLE_SECONDS = 10.0
SAMPLES_A_RELOAD = 6
BODIES: list[dict[str, Any]] = [
    {"prompt": prompt, "seed": seed, "num_inference_steps": steps} | more
    for prompt in ("老虎", "卡通猫", "扁平风格的红苹果")
    for seed, steps in ((1, 1), (2, 2), (3, 4))
    for more in ({}, {"upscale": 1}, {"guidance_scale": 1.0}, {"output_format": "webp"})
]
WRONG: list[dict[str, Any]] = [{}, {"prompt": ""}, {"prompt": "a", "width": 17}, {"prompt": 3}]


@dataclass
class Soak:
    """What happened so far."""

    client: httpx.AsyncClient
    chance: random.Random
    end: float
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    pixels: dict[str, str] = field(default_factory=dict)  # by request
    latency: list[tuple[float, float]] = field(default_factory=list)  # when, seconds
    memory: list[tuple[float, int]] = field(default_factory=list)  # when, bytes

    async def work(self) -> None:
        """One client: something at random, again and again."""
        kinds: list[Callable[[], Awaitable[None]]] = [self.draw, self.nonsense, self.leave]
        kinds += [self.job, self.cancel, self.look]
        while time.monotonic() < self.end:
            (kind,) = self.chance.choices(kinds, [10, 3, 1, 2, 1, 3])
            await kind()

    async def draw(self) -> None:
        """A picture, as ever."""
        body, began = self.chance.choice(BODIES), time.monotonic()
        answer = await self.post("/generate", body, 200)
        self.latency.append((began, time.monotonic() - began))
        self.compare(body, answer.json())

    async def nonsense(self) -> None:
        """A request that is refused."""
        await self.post("/generate", self.chance.choice(WRONG), 422)

    async def leave(self) -> None:
        """A client that does not wait for its picture."""
        self.requests += 1
        body = {"prompt": "老虎", "num_inference_steps": 20}
        try:
            await self.client.post("/generate", json=body, timeout=self.chance.uniform(0.01, 0.1))
        except httpx.TimeoutException:
            self.statuses["left"] += 1

    async def job(self) -> None:
        """A job from its acceptance to its file."""
        body = self.chance.choice(BODIES)
        accepted = (await self.post("/v1/jobs", body, 202)).json()
        job: dict[str, Any] = {"status": "queued"}
        while job["status"] in ("queued", "running"):
            job = (await self.get(f"/v1/jobs/{accepted['id']}?wait=30", 200)).json()
        if job["status"] != "succeeded":
            self.wrong.append(f"job {job['status']}")
            return
        self.compare(body, job["result"])
        await self.get(job["result"]["data"][0]["url"], 200)

    async def cancel(self) -> None:
        """A job that is not wanted any more; it may be over by then."""
        body = {"prompt": "老虎", "num_inference_steps": 30}
        accepted = (await self.post("/v1/jobs", body, 202)).json()
        await self.post(f"/v1/jobs/{accepted['id']}/cancel", {}, 200, 409)

    async def look(self) -> None:
        """What clients and machinery read."""
        paths = ["/readyz", "/metrics", "/v1/capabilities", "/v1/jobs?limit=5"]
        await self.get(self.chance.choice(paths), 200)

    async def post(self, path: str, body: dict[str, Any], *meant: int) -> httpx.Response:
        """Ask, and note a status that is not meant."""
        return self.note(path, await self.client.post(path, json=body), meant)

    async def get(self, path: str, *meant: int) -> httpx.Response:
        """The same for what is read."""
        return self.note(path, await self.client.get(path), meant)

    def note(self, path: str, answer: httpx.Response, meant: tuple[int, ...]) -> httpx.Response:
        """Count it."""
        self.requests += 1
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code not in meant:
            self.wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
        return answer

    def compare(self, body: dict[str, Any], told: dict[str, Any]) -> None:
        """The same request has the same pixels, whoever asks for it and how."""
        got = told.get("data", [{}])[0].get("pixel_sha256")
        if got != self.pixels.setdefault(str(sorted(body.items())), got):
            self.wrong.append(f"other pixels for {body}")

    async def sample(self, server: psutil.Process) -> None:
        """Note the memory until the end, and exchange the graph now and then."""
        while time.monotonic() < self.end:
            self.memory.append((time.monotonic(), tree_bytes(server)))
            if len(self.memory) % SAMPLES_A_RELOAD == 0:
                server.send_signal(signal.SIGHUP)
            await asyncio.sleep(SAMPLE_SECONDS)


def soak(folder: Path, minutes: float) -> dict[str, Any]:
    """Run it; figures of the second half against the first."""
    with running(folder, state=folder / "state", retention_hours=0.02, queue_size=64) as server:
        found = asyncio.run(_soak(server, minutes, psutil.Process(server.process.pid)))
    return facts(found)


async def _soak(server: Any, minutes: float, process: psutil.Process) -> Soak:
    async with connected(server, 2 * CLIENTS) as client:
        found = Soak(client, random.Random(0), time.monotonic() + 60 * minutes)
        clients = [found.work() for _ in range(CLIENTS)]
        await asyncio.gather(found.sample(process), *clients)
    return found


def facts(found: Soak) -> dict[str, Any]:
    """The figures of a run that is over."""
    began = found.memory[0][0]
    middle = (began + found.end) / 2
    early = [s for when, s in found.latency if when < middle]
    late = [s for when, s in found.latency if when >= middle]
    times = np.array([when for when, _ in found.memory]) / 3600
    held = np.array([size for _, size in found.memory]) / 2**20
    half = len(held) // 2
    p99 = [float(np.quantile(part, 0.99)) for part in (early, late)]
    return {
        "minutes": round((found.end - began) / 60, 1),
        "requests": found.requests,
        "reloads": len(found.memory) // SAMPLES_A_RELOAD,
        "statuses": dict(found.statuses),
        "wrong": len(found.wrong),
        "what_was_wrong": found.wrong[:5],
        "memory_mib": {"first": round(held[0], 1), "last": round(held[-1], 1)},
        "memory_slope_mib_per_hour": {
            "all": round(float(np.polyfit(times, held, 1)[0]), 2),
            "second_half": round(float(np.polyfit(times[half:], held[half:], 1)[0]), 2),
        },
        "p99_seconds": [round(value, 3) for value in p99],
        "p99_drift": round(p99[1] / p99[0] - 1, 3),
    }
