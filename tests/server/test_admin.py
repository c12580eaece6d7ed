"""The operators' port: the graph is exchanged under load, a drain is told, a token is asked for."""

import contextlib
import gc
import hashlib
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from knowledge.builder import BuildOptions, build_version
from knowledge.store import GraphStore
from knowledge.training import train_version
from knowledge.transe import TransEConfig
from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.testing import ALIASES, TRIPLES, build_micro_graph
from server.admin import AdminPort, create_admin_app
from server.app import create_app
from server.control import Control
from server.device import LocalDevice, WorkerLostError, WorkRequest
from server.device_main import LoadPipeline
from server.errors import Problem
from server.main import _hearing_hang_ups
from server.process import Patience, RemoteDevice
from server.settings import Settings

BODY = {"prompt": "一个大猫", "seed": 7}


def build_next(store: Path, dimension: int = 8) -> str:
    """Make a version active in which 大猫 is a name of 老虎 too."""
    aliases = [*ALIASES, ("大猫", "老虎", 0.9)]
    version = build_version(TRIPLES, aliases, store, options=BuildOptions(link_objects=True))
    return train_version(version, TransEConfig(dimension=dimension, epochs=2)).name


def damage_active(store: Path) -> Path:
    """Change one byte of the active version, where only its checksum tells."""
    path = store / (store / "CURRENT").read_text().strip() / "vectors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build_micro_graph(tmp_path / "graph")
    return tmp_path / "graph"


@pytest.fixture
def operated(serving_app: Any, store: Path, micro_model_folder: Path) -> Iterator[Callable]:
    """`operated()` starts a server over a graph of its own, and its second port."""
    with contextlib.ExitStack() as stack:

        def start(wrap: Callable[[Any], Any] = lambda pipeline: pipeline, **given: Any) -> Any:
            settings = Settings(graph=store, admin_port=0, **given)
            pipeline = RapidDiffusionPipeline.from_pretrained(micro_model_folder, knowledge=store)
            app = create_app(settings, wrap(pipeline))
            control = Control(app.state.service)
            port = AdminPort(settings)
            port.start(create_admin_app(app.state.service, control))
            stack.callback(port.close)
            client = stack.enter_context(serving_app(app))
            address = f"http://127.0.0.1:{port.port}"
            admin = stack.enter_context(httpx.Client(base_url=address, timeout=60))
            return SimpleNamespace(client=client, admin=admin, control=control)

        yield start


def names(answer: httpx.Response) -> list[str]:
    return [entity["id"] for entity in answer.json()["entities"]]


def test_new_alias_changes_links_and_picture_without_a_restart(operated: Any, store: Path) -> None:
    running = operated()
    before = running.client.post("/generate", json=BODY)
    new = build_next(store)
    exchanged = running.admin.post("/admin/knowledge/reload")
    after = running.client.post("/generate", json=BODY)
    old = before.json()["knowledge"]["version"]
    assert exchanged.json() == {"old_version": old, "new_version": new}
    assert after.json()["knowledge"] == {"version": new} != {"version": old}
    assert (names(before), names(after)) == (["猫"], ["老虎"])
    hashes = [answer.json()["data"][0]["pixel_sha256"] for answer in (before, after)]
    assert hashes[0] != hashes[1]
    told = running.client.get("/v1/capabilities").json()["knowledge"]
    assert told == {"version": new}
    assert f'version="{new}"' in running.admin.get("/metrics").text


def test_request_in_flight_keeps_its_graph(operated: Any, store: Path, gated: Any) -> None:
    gates: list[Any] = []
    running = operated(lambda pipeline: gates.append(gated(pipeline)) or gates[0])
    old = running.client.get("/v1/capabilities").json()["knowledge"]
    asking = ThreadPoolExecutor(1).submit(running.client.post, "/generate", json=BODY)
    assert gates[0].entered.wait(60)
    build_next(store)
    assert running.admin.post("/admin/knowledge/reload").status_code == 200
    gates[0].open.set()
    assert asking.result().json()["knowledge"] == old
    assert names(asking.result()) == ["猫"]


def test_damaged_graph_is_refused_by_name_and_the_old_one_serves(
    operated: Any, store: Path
) -> None:
    running = operated()
    before = running.client.post("/generate", json=BODY).json()
    build_next(store)
    damaged = damage_active(store)
    answer = running.admin.post("/admin/knowledge/reload", headers={"Accept-Language": "en"})
    after = running.client.post("/generate", json=BODY).json()
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "exchange_refused")
    assert damaged.name in answer.json()["detail"]
    assert before["knowledge"]["version"] in answer.json()["detail"]
    assert after["data"][0]["pixel_sha256"] == before["data"][0]["pixel_sha256"]
    assert 'reloads_total{result="refused",what="graph"} 1.0' in running.admin.get("/metrics").text


def test_vectors_that_do_not_fit_are_refused(micro_pipeline: Any, tmp_path: Path) -> None:
    build_next(tmp_path / "graph", dimension=12)
    with pytest.raises(CheckpointError, match="12 numbers; the text encoder takes 8"):
        micro_pipeline.with_knowledge(tmp_path / "graph")


def test_pipeline_with_another_graph_leaves_the_first_as_it_was(
    micro_pipeline: Any, tmp_path: Path
) -> None:
    build_next(tmp_path / "graph")
    before = micro_pipeline("一个大猫", seed=7, output_type="numpy")
    other = micro_pipeline.with_knowledge(tmp_path / "graph")
    changed = other("一个大猫", seed=7, output_type="numpy")
    again = micro_pipeline("一个大猫", seed=7, output_type="numpy")
    assert (before.images == again.images).all()
    assert not (before.images == changed.images).all()
    assert changed.knowledge == GraphStore(tmp_path / "graph").graph.version != before.knowledge


def test_graph_that_nobody_uses_any_more_is_let_go(store: Path, micro_model_folder: Path) -> None:
    pipeline = RapidDiffusionPipeline.from_pretrained(micro_model_folder, knowledge=store)
    device = LocalDevice(pipeline)
    seen = []
    for _ in range(3):
        device.reload(str(store))
        device.draw(WorkRequest("id", "老虎", {"seed": 1}), lambda *_: None)
        seen.append(weakref.ref(device._pipeline.graph))
    gc.collect()
    assert [graph() is None for graph in seen] == [True, True, False]


def test_exchange_is_refused_at_once_while_there_is_no_worker() -> None:
    device = RemoteDevice(LoadPipeline("nothing", "cpu", 1), Patience())
    with device._changing, pytest.raises(WorkerLostError):
        device.reload(None)


def test_ten_exchanges_under_load_fail_nobody(operated: Any, store: Path) -> None:
    running = operated(queue_size=100)
    versions = [(store / "CURRENT").read_text(), f"{build_next(store)}\n"]
    pictures: dict[str, set[str]] = {}
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(running.client.post, "/generate", json=BODY) for _ in range(15)]
        for turn in range(10):
            (store / "CURRENT").write_text(versions[turn % 2])
            assert running.admin.post("/admin/knowledge/reload").status_code == 200
        answers = [future.result() for future in asking]
    assert {answer.status_code for answer in answers} == {200}
    for answer in map(httpx.Response.json, answers):
        version, picture = answer["knowledge"]["version"], answer["data"][0]["pixel_sha256"]
        pictures.setdefault(version, set()).add(picture)
    assert all(len(found) == 1 for found in pictures.values())


def test_exchange_reaches_the_worker_process_and_outlives_it(
    serving_app: Any, store: Path, micro_model_folder: Path
) -> None:
    load = LoadPipeline(str(micro_model_folder), "cpu", 1, graph=str(store))
    device = RemoteDevice(load, Patience(60.0, 120.0))
    device.start()
    app = create_app(Settings(graph=store), device)
    with serving_app(app) as client:
        control = Control(app.state.service)
        new = build_next(store)
        assert control.reload_graph().new_version == new
        wanted = client.post("/generate", json=BODY).json()
        (store / "CURRENT").write_text("0123456789abcdef\n")  # what broke since changes nothing
        os.kill(device.pid, signal.SIGKILL)
        while client.get("/readyz").status_code != 503:
            time.sleep(0.01)
        while client.get("/readyz").status_code != 200:
            time.sleep(0.05)
        again = client.post("/generate", json=BODY).json()
        assert wanted["knowledge"] == again["knowledge"] == {"version": new}
        assert wanted["data"][0]["pixel_sha256"] == again["data"][0]["pixel_sha256"]
        with pytest.raises(Problem, match="exchange_refused"):
            control.reload_graph()


def test_hang_up_signal_exchanges_the_graph(operated: Any, store: Path) -> None:
    running = operated()
    new = build_next(store)
    with _hearing_hang_ups(running.control):
        os.kill(os.getpid(), signal.SIGHUP)
        due = time.monotonic() + 60
        while running.client.get("/v1/capabilities").json()["knowledge"]["version"] != new:
            assert time.monotonic() < due, "never exchanged"
            time.sleep(0.01)


def test_drained_server_takes_nothing_new_and_says_when_it_is_idle(operated: Any) -> None:
    running = operated()
    answer = running.admin.post("/admin/drain")
    assert (answer.status_code, answer.json()["status"]) == (202, "drained")
    refused = running.client.post("/generate", json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert running.admin.get("/readyz").status_code == 503
    assert running.admin.get("/livez").status_code == 200


def test_token_is_asked_for_where_there_is_one(operated: Any) -> None:
    digest = hashlib.sha256(b"token").hexdigest()
    running = operated(admin_token_sha256=digest)
    statuses = [
        running.admin.post("/admin/drain", headers=headers).status_code
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer token"})
    ]
    assert statuses == [401, 401, 202]
    assert running.admin.get("/metrics").status_code == 200


def test_operators_routes_are_not_on_the_first_port(operated: Any) -> None:
    running = operated()
    for path in ("/admin/drain", "/admin/knowledge/reload"):
        assert running.client.post(path).status_code == 404
        assert running.admin.get(path).status_code == 405
    foreign = {"Origin": "http://elsewhere.example"}
    assert running.admin.post("/admin/drain", headers=foreign).status_code == 403


def test_port_beyond_the_loopback_needs_a_token() -> None:
    with pytest.raises(ValueError, match="ADMIN_TOKEN_SHA256"):
        Settings(admin_port=9000, admin_host="0.0.0.0")
    assert Settings(admin_port=9000, admin_host="0.0.0.0", admin_token_sha256="0" * 64)


def test_port_that_is_taken_is_told_at_the_start() -> None:
    first = AdminPort(Settings(admin_port=0))
    try:
        with pytest.raises(InvalidRequestError, match=f"admin_port: 127.0.0.1:{first.port}"):
            AdminPort(Settings(admin_port=first.port))
    finally:
        first.close()
