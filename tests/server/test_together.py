"""Requests that are drawn at once: by threads, in a real process, and what one does to others."""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from rapid_diffusion import GenerationResult, RapidDiffusionPipeline
from rapid_diffusion.errors import CanceledError
from server.admission import Company
from server.child import Child, Patience, Pulse
from server.device import LocalDevice, WorkerLostError, WorkRequest
from server.device_main import LoadPipeline
from server.metrics import Metrics
from server.process import RemoteDevice
from server.settings import Settings
from server.worker import Failed, Succeeded, Worker

WISHES: list[dict[str, Any]] = [
    {"seed": 1, "num_inference_steps": 12},
    {"seed": 2, "num_inference_steps": 6, "scheduler": "dpmpp_2m_sde"},
    {"seed": 3, "guidance_scale": 1.0, "num_images_per_prompt": 2},
    {"seed": 4, "adapter": "ink"},
]


def request(**wishes: Any) -> WorkRequest:
    return WorkRequest("id", "老虎", wishes)


def wait_until(condition: Callable[[], bool]) -> None:
    due = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < due, "never happened"
        time.sleep(0.002)


def drawn(device: Any, wanted: WorkRequest) -> bytes:
    result: GenerationResult = device.draw(wanted, lambda *_: None)
    return np.asarray(result.images).tobytes()


@pytest.fixture(scope="module")
def shared(micro_model_folder: Path, micro_adapter_folder: Path) -> RapidDiffusionPipeline:
    load = LoadPipeline(
        str(micro_model_folder), "cpu", None, (("ink", str(micro_adapter_folder)),), 8
    )
    return load()


@pytest.fixture(scope="module")
def alone(shared: RapidDiffusionPipeline) -> list[bytes]:
    """What must come out, whoever else draws."""
    device = LocalDevice(shared)
    return [drawn(device, request(**wishes)) for wishes in WISHES]


@pytest.fixture(scope="module")
def device(micro_model_folder: Path, micro_adapter_folder: Path) -> Iterator[RemoteDevice]:
    """A process that draws five at once."""
    adapters = (("ink", str(micro_adapter_folder)),)
    load = LoadPipeline(str(micro_model_folder), "cpu", 1, adapters, 8)
    device = RemoteDevice(load, Patience(8.0, 120.0))
    device.start()
    yield device
    device.close()


def child_of(device: RemoteDevice) -> Child:
    assert device._child is not None
    return device._child


def test_a_process_draws_four_at_once_with_the_bits_of_each_alone(
    device: RemoteDevice, alone: list[bytes]
) -> None:
    assert device.capabilities.concurrency == 9
    assert device.capabilities.engine.endswith("rows 8")
    order = [3, 1, 0, 2, 1, 3, 2, 0]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(lambda n: drawn(device, request(**WISHES[n])), order))
    assert [pixels == alone[n] for n, pixels in zip(order, together, strict=True)] == [True] * 8


def test_the_process_tells_what_its_engine_does(device: RemoteDevice) -> None:
    time.sleep(0.3)  # a beat: what others have drawn is told to nobody
    metrics = Metrics()
    device.on_work = metrics.observe_work
    drawn(device, request(seed=1, num_inference_steps=7))
    told = 't2i_step_latency_seconds_count{bucket="4x4",rows="8"} 7.0'
    wait_until(lambda: told in generate_latest(metrics.registry).decode())
    text = generate_latest(metrics.registry).decode()
    assert 't2i_batch_occupancy_ratio_bucket{le="0.25"} 7.0' in text
    assert "t2i_recompiles_total 0.0" in text
    assert "t2i_nan_retries_total 0.0" in text


def test_canceling_one_order_leaves_the_others(device: RemoteDevice, alone: list[bytes]) -> None:
    wishes = {"seed": 8, "num_inference_steps": 100, "num_images_per_prompt": 8}
    first, second = request(**wishes), request(**wishes)  # equal, and not the same
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(drawn, device, one) for one in (first, second)]
        wait_until(lambda: len(child_of(device).pulse.beat) == 2)
        other = pool.submit(drawn, device, request(**WISHES[0]))
        device.cancel(first)
        assert isinstance(runs[0].exception(240), CanceledError)
        assert other.result(240) == alone[0]
        assert runs[1].exception(240) is None


def test_a_lost_process_is_heard_of_by_all_and_all_is_drawn_again_alike(
    device: RemoteDevice,
) -> None:
    async def lose() -> list[Any]:
        worker = Worker(device, 8, Metrics())
        worker.start()
        tickets = [worker.submit(one) for one in asked]
        await asyncio.to_thread(wait_until, lambda: len(child_of(device).pulse.beat) == 3)
        os.kill(child_of(device).pid or 0, signal.SIGKILL)
        ends = [[event async for event in worker.events(ticket)][-1] for ticket in tickets]
        assert [ticket.losses for ticket in tickets] == [1, 1, 1]
        worker.drain()
        return ends

    asked = [request(seed=n, num_inference_steps=100, num_images_per_prompt=2) for n in range(3)]
    wanted = [drawn(device, one) for one in asked]
    ends = asyncio.run(lose())
    assert [end.result.images.tobytes() for end in ends] == wanted


def test_steps_of_requests_drawn_at_once_are_shared(shared: RapidDiffusionPipeline) -> None:
    calls, began = [0], threading.Barrier(4, timeout=60)

    def count(*_: Any) -> None:
        calls[0] += 1

    def draw(seed: int) -> None:
        waited = iter([began.wait])

        def after_step(*_: int) -> None:
            for wait in waited:  # at (0, 0), before anything is drawn
                wait()

        device.draw(request(seed=seed, num_inference_steps=40), after_step)

    device, handle = LocalDevice(shared), None
    try:
        handle = shared.model.denoiser.register_forward_pre_hook(count)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(draw, range(4)))
    finally:
        if handle is not None:
            handle.remove()
    assert 40 <= calls[0] < 4 * 40


class Fragile:
    """A device that draws three at once and loses all of them where one of them is poison."""

    measured = ()
    is_ready = True

    def __init__(self, pipeline: RapidDiffusionPipeline) -> None:
        self.capabilities = LocalDevice(pipeline).capabilities
        self.on_change: Callable[[], None] = lambda: None
        self.log: list[str] = []
        self._inside: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    def draw(self, wanted: WorkRequest, _after_step: object) -> Any:
        name, lost = wanted.request_id, Future[None]()
        with self._lock:
            self.log.append(name)
            self._inside[name] = lost
            if name == "poison":
                for other in self._inside.values():
                    if not other.done():
                        other.set_exception(WorkerLostError("lost"))
        try:
            lost.result(0.05)
        except TimeoutError:
            return GenerationResult(np.zeros((1, 2, 2, 3)), [[]], [0], {}, {}, [None])
        finally:
            with self._lock:
                del self._inside[name]

    def cancel(self, _request: WorkRequest) -> None: ...

    def close(self) -> None: ...


def ends_of(device: Any, names: list[str]) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        worker = Worker(device, 99, Metrics())
        worker.start()
        tickets = {name: worker.submit(WorkRequest(name, "老虎", {})) for name in names}
        ends = {n: [e async for e in worker.events(t)][-1] for n, t in tickets.items()}
        await asyncio.to_thread(worker.close, 10)
        assert all(ticket.outbox.empty() for ticket in tickets.values())
        return ends

    return asyncio.run(work())


def test_who_costs_the_device_is_given_up_and_the_neighbours_are_not(
    shared: RapidDiffusionPipeline,
) -> None:
    fragile = Fragile(shared)
    ends = ends_of(fragile, ["one", "poison", "two", "three"])
    assert [name for name, end in ends.items() if isinstance(end, Failed)] == ["poison"]
    assert ends["poison"].error.code == "worker_lost"
    assert fragile.log.count("poison") == 3


def test_closing_finishes_what_all_threads_draw(shared: RapidDiffusionPipeline) -> None:
    async def drain() -> list[Any]:
        metrics = Metrics()
        worker = Worker(LocalDevice(shared), 16, metrics)
        worker.start()
        tickets = [worker.submit(request(seed=seed)) for seed in range(12)]
        await asyncio.to_thread(worker.close, 60)
        assert metrics.running._value.get() == 0
        return [[event async for event in worker.events(ticket)][-1] for ticket in tickets]

    assert all(isinstance(end, Succeeded) for end in asyncio.run(drain()))


def test_requests_over_http_run_at_once_and_the_gauge_counts_them(
    shared: RapidDiffusionPipeline, serving: Any
) -> None:
    body = {"prompt": "老虎", "num_inference_steps": 50, "num_images_per_prompt": 4}
    with serving(Settings(), shared) as client, ThreadPoolExecutor(3) as pool:
        answers = [
            pool.submit(client.post, "/generate", json=body | {"seed": n}, timeout=240)
            for n in (1, 2, 1)
        ]
        seen = []
        while not all(answer.done() for answer in answers):
            found = re.search(r"^t2i_requests_running (\S+)", client.get("/metrics").text, re.M)
            seen.append(float(found[1]) if found else 0.0)
        first, _, again = ([p["pixel_sha256"] for p in a.result().json()["data"]] for a in answers)
    assert max(seen) > 1
    assert first == again


def test_company_is_the_mean_number_over_the_time() -> None:
    now = [0.0]
    company = Company(lambda: now[0])
    company.change(+1)
    began = company.begin()
    assert company.since(began) == 1.0
    for count, seconds in ((+1, 2.0), (+1, 1.0), (-2, 1.0)):
        now[0] += seconds
        company.change(count)
    now[0] += 4.0
    assert company.since(began) == pytest.approx((2 * 1 + 1 * 2 + 1 * 3 + 4 * 1) / 8)


def test_a_request_that_hangs_at_its_end_is_seen_though_others_get_on() -> None:
    pulse, patience = Pulse(), Patience(silence=1e9, hang=10.0)
    pulse.hear({1: (5, True), 2: (7, False)})
    assert pulse.fault(patience) is None
    pulse.at_end = {order: since - 11.0 for order, since in pulse.at_end.items()}
    pulse.hear({1: (5, True), 2: (8, False)})
    assert pulse.fault(patience) == "hang"
    pulse.hear({1: (6, True), 2: (9, False)})
    assert pulse.fault(patience) is None


def test_a_watch_that_stood_still_itself_blames_nobody() -> None:
    pulse, patience = Pulse(), Patience(silence=15.0, hang=10.0)
    pulse.hear({1: (5, True)})
    for name in ("seen", "moved", "looked"):  # the whole machine stood still for a minute
        setattr(pulse, name, getattr(pulse, name) - 60.0)
    pulse.at_end = {order: since - 60.0 for order, since in pulse.at_end.items()}
    assert pulse.fault(patience) is None
    pulse.seen -= 16.0  # and now the worker alone
    assert pulse.fault(patience) == "silent"


def test_a_request_that_waits_for_rows_is_no_hang() -> None:
    pulse, patience = Pulse(), Patience(silence=1e9, hang=10.0)
    for moves in range(3):
        pulse.moved -= 6.0
        pulse.hear({1: (moves, False), 2: (0, False)})
        assert pulse.fault(patience) is None
    pulse.moved -= 11.0
    pulse.hear({1: (2, False), 2: (0, False)})
    assert pulse.fault(patience) == "hang"
