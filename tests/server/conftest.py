"""Real servers on real sockets: uvicorn in a thread, the micro model behind it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from rapid_diffusion import RapidDiffusionPipeline
from server.app import create_app
from server.protocol import PatientProtocol
from server.settings import Settings


class Gate:
    """The micro pipeline with a door before each step, and a way to make it fail."""

    def __init__(self, pipeline: RapidDiffusionPipeline) -> None:
        self._pipeline = pipeline
        self.open = threading.Event()
        self.entered = threading.Event()
        self.failure: BaseException | None = None
        self.flat: bool | Callable[[], bool] = False
        self.runs: list[dict[str, Any]] = []
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def with_knowledge(self, graph: Any = None) -> "Gate":
        other = Gate(self._pipeline.with_knowledge(graph))
        other.open, other.entered = self.open, self.entered
        return other

    def share_engine(self, _rows: object) -> "Gate":
        return self  # one request at a time, and the session's pipeline stays as it is

    def __call__(self, prompt: str, **arguments: Any) -> Any:
        self.runs.append({"prompt": prompt, **arguments})
        after_step = arguments.pop("callback_on_step_end")

        def gated(step: int, steps: int, latents: object) -> None:
            self.steps += 1
            self.entered.set()
            assert self.open.wait(60)
            after_step(step, steps, latents)

        if self.failure is not None:
            raise self.failure
        result = self._pipeline(prompt, **arguments, callback_on_step_end=gated)
        if self.flat() if callable(self.flat) else self.flat:
            result.images[:] = 0
        return result


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`survived(client, 'requests_total{status="500"}')`: it was counted, and life goes on.

    `within`: seconds until a picture is drawn again, however busy the machine is; how many they
    were goes into pytest's report (`--junitxml`).
    """

    def check(client: httpx.Client, metric: str, within: float = 60.0) -> None:
        began, body = time.monotonic(), {"prompt": "老虎", "seed": 7}
        while client.post("/generate", json=body).status_code != 200:
            assert time.monotonic() - began < within, "no picture comes"
            time.sleep(0.01)
        record_property("recovery_seconds", round(time.monotonic() - began, 3))
        lines = client.get("/metrics").text.splitlines()
        counts = [float(line.split()[-1]) for line in lines if line.startswith(f"t2i_{metric}")]
        assert sum(counts) >= 1, metric

    return check


@pytest.fixture(scope="session", name="serving")
def serving_fixture() -> Callable[..., Any]:
    """`with serving(settings, pipeline) as client:`, for tests that start several servers."""
    return serving


@contextlib.contextmanager
def serving(settings: Settings, pipeline: Any) -> Iterator[httpx.Client]:
    """A client of a running server; leaving stops the server as SIGTERM would."""
    with serving_app(create_app(settings, pipeline)) as client:
        yield client


@pytest.fixture(scope="session", name="serving_app")
def serving_app_fixture() -> Callable[..., Any]:
    """`with serving_app(app) as client:`, for tests that look behind the app."""
    return serving_app


@contextlib.contextmanager
def serving_app(app: Any) -> Iterator[httpx.Client]:
    """As `serving`, for an application that was put together before."""
    config = uvicorn.Config(app, http=PatientProtocol, port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def pipeline(micro_pipeline: RapidDiffusionPipeline) -> RapidDiffusionPipeline:
    return micro_pipeline


@pytest.fixture(scope="session")
def client(pipeline: RapidDiffusionPipeline) -> Iterator[httpx.Client]:
    """One server for every test that only asks."""
    with serving(Settings(queue_size=8), pipeline) as client:
        yield client


@pytest.fixture(scope="session")
def adapted(
    micro_model_folder: Path, micro_adapter_folder: Path
) -> Iterator[tuple[httpx.Client, RapidDiffusionPipeline]]:
    """A server with the adapter `ink`, and the pipeline behind it."""
    pipeline = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipeline.load_adapter(micro_adapter_folder, "ink")
    with serving(Settings(), pipeline) as client:
        yield client, pipeline


@pytest.fixture(scope="session")
def gated() -> Callable[[RapidDiffusionPipeline], Gate]:
    """A gate around a pipeline of one's own."""
    return Gate


@pytest.fixture
def gate(pipeline: RapidDiffusionPipeline) -> Iterator[Gate]:
    gate = Gate(pipeline)
    yield gate
    gate.open.set()


@pytest.fixture
def serve(gate: Gate) -> Iterator[Callable[..., httpx.Client]]:
    """`serve(queue_size=1)` starts a server over the gate; the gate opens before it stops."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> httpx.Client:
            client = stack.enter_context(serving(Settings(**settings), gate))
            stack.callback(gate.open.set)
            return client

        yield start
