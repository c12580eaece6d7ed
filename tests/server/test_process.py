"""The worker's own process: killed, stopped, hanging; nobody's picture is lost or changed."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import CheckpointError, InvalidRequestError, NumericalError
from rapid_diffusion.images.label import draw_label
from server.device import WorkRequest
from server.device_main import LoadPipeline
from server.process import Patience, RemoteDevice
from server.settings import Settings
from server.wire import pack_error, unpack_error

BODY = {"prompt": "老虎", "seed": 7, "num_inference_steps": 100, "num_images_per_prompt": 4}


def wait_until(condition: Callable[[], bool]) -> None:
    due = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < due, "never happened"
        time.sleep(0.01)


def begun(device: RemoteDevice) -> bool:
    """Whether the process says that it draws."""
    child = device._child
    return child is not None and bool(child.pulse.beat)


def later(client: httpx.Client, body: dict[str, Any]) -> "Future[httpx.Response]":
    return ThreadPoolExecutor(1).submit(lambda: client.post("/generate", json=body, timeout=240))


@pytest.fixture(scope="module")
def device(micro_model_folder: Path) -> RemoteDevice:
    """A process with the micro model; the server that gets it ends it."""
    device = RemoteDevice(LoadPipeline(str(micro_model_folder), "cpu", 1), Patience(8.0, 120.0))
    device.start()
    return device


@pytest.fixture(scope="module")
def client(
    device: RemoteDevice, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    settings = Settings(state=tmp_path_factory.mktemp("state"), drain_seconds=60)
    with serving(settings, device) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(pipeline: RapidDiffusionPipeline, client: httpx.Client) -> list[str]:
    """The pixels that must come out, whatever happens to the process."""
    return hashes(client.post("/generate", json=BODY).json())


def hashes(answer: dict[str, Any]) -> list[str]:
    return [picture["pixel_sha256"] for picture in answer["data"]]


def test_process_draws_what_the_library_draws(
    device: RemoteDevice, client: httpx.Client, pipeline: RapidDiffusionPipeline
) -> None:
    body = {"prompt": "老虎", "seed": 42}
    picture = client.post("/generate", json=body).json()["data"][0]
    drawn = draw_label(pipeline("老虎", seed=42, output_type="numpy").images[0])
    assert device.pid != os.getpid()
    assert picture["pixel_sha256"] == hashlib.sha256(drawn.tobytes()).hexdigest()


def test_partial_images_come_out_of_the_process(client: httpx.Client) -> None:
    body = {"prompt": "老虎", "seed": 7}
    wish = {"stream": True, "partial_images": 2}
    answer = client.post("/v1/images/generations", json=body | wish)
    picture = client.post("/generate", json=body).json()["data"][0]
    assert answer.text.count("event: image_generation.partial_image\n") == 2
    assert f'"pixel_sha256": "{picture["pixel_sha256"]}"' in answer.text


def test_errors_come_through_with_their_field(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "老虎", "entities": [{"id": "nobody"}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "entities")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_stopped_process_is_reported_and_mended(
    device: RemoteDevice, client: httpx.Client, wanted: list[str], survived: Any, number: int
) -> None:
    job = client.post("/v1/jobs", json=BODY).json()
    answer = later(client, BODY)
    wait_until(lambda: begun(device))
    before = device.pid
    os.kill(before, number)
    wait_until(lambda: client.get("/readyz").status_code == 503)
    assert client.get("/livez").status_code == 200
    wait_until(lambda: client.get("/readyz").status_code == 200)
    assert hashes(answer.result().json()) == wanted
    ended = client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()
    assert (ended["status"], hashes(ended["result"])) == ("succeeded", wanted)
    assert device.pid != before
    reason = {signal.SIGKILL: "died", signal.SIGSTOP: "silent"}[number]
    survived(client, f'worker_losses_total{{reason="{reason}"}}')


def test_canceled_job_ends_within_a_step_and_its_neighbour_is_untouched(
    device: RemoteDevice, client: httpx.Client, wanted: list[str]
) -> None:
    first = client.post("/v1/jobs", json=BODY | {"seed": 1, "num_images_per_prompt": 8}).json()
    second = client.post("/v1/jobs", json=BODY).json()
    canceled = client.post(f"/v1/jobs/{first['id']}/cancel").json()
    ended = client.get(f"/v1/jobs/{second['id']}", params={"wait": 60}).json()
    assert canceled["status"] == "canceled"
    assert hashes(ended["result"]) == wanted


def test_hang_is_told_from_work_and_the_request_is_drawn_all_the_same(
    micro_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "faulty"))
    hanging = __import__("hanging_pipeline")
    load = hanging.LoadHanging(str(micro_model_folder), str(tmp_path / "marker"))
    device, losses = RemoteDevice(load, Patience(120.0, 10.0)), []
    device.on_loss = losses.append
    device.start()
    try:
        with pytest.raises(RuntimeError, match="lost"):
            device.draw(WorkRequest("id", "老虎", {"seed": 1}), lambda *_: None)
        wait_until(lambda: device.is_ready)
        drawn = device.draw(WorkRequest("id", "老虎", {"seed": 1}), lambda *_: None)
    finally:
        device.close()
        sys.modules.pop("hanging_pipeline", None)
    assert (losses, drawn.seeds) == (["hang"], [1])


def test_model_that_cannot_be_loaded_is_told_at_the_start(tmp_path: Path) -> None:
    device = RemoteDevice(LoadPipeline(str(tmp_path / "nothing"), "cpu", 1), Patience())
    with pytest.raises(CheckpointError, match="nothing"):
        device.start()


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("seed", "too large"),
        CheckpointError("/models/x", "damaged"),
        NumericalError("NaN"),
        MemoryError("full"),
    ],
)
def test_errors_keep_their_class_and_words_between_processes(error: Exception) -> None:
    again = unpack_error(pack_error(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_unknown_errors_keep_their_name() -> None:
    assert str(unpack_error(pack_error(KeyError("x")))) == "KeyError: 'x'"
