"""Keys: asked for, kept as hashes, compared whole, and each with its own jobs and allowance."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rapid_diffusion.errors import InvalidRequestError
from server import keys as module
from server.errors import Problem
from server.keys import Key, Keys, main, new_key
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7}


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two keys, and the file of their hashes."""
    (shop, kept_shop), (museum, kept_museum) = new_key("shop"), new_key("museum")
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_text(json.dumps({"keys": [kept_shop.model_dump(), kept_museum.model_dump()]}))
    return {"shop": shop, "museum": museum, "path": path}


@pytest.fixture(scope="module")
def client(
    names: dict[str, Any], pipeline: Any, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    settings = Settings(keys_file=names["path"], state=tmp_path_factory.mktemp("state"))
    with serving(settings, pipeline) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        bearer("rd-wrong"),
        {"Authorization": "Basic x"},
        bearer("\xff"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/jobs", "/v1/images/generations"])
def test_without_a_key_everything_is_401(
    client: httpx.Client, headers: dict[str, str], path: str
) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post(path, json=BODY, headers=encoded)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_with_a_key_it_is_drawn(client: httpx.Client, names: dict[str, Any]) -> None:
    answer = client.post("/generate", json=BODY, headers=bearer(names["shop"]))
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json"])
def test_probes_need_no_key(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_jobs_of_another_key_are_not_there(client: httpx.Client, names: dict[str, Any]) -> None:
    mine, other = bearer(names["shop"]), bearer(names["museum"])
    job = client.post("/v1/jobs", json=BODY, headers=mine | {"Idempotency-Key": "1"}).json()
    same = client.post("/v1/jobs", json=BODY, headers=other | {"Idempotency-Key": "1"}).json()
    path = f"/v1/jobs/{job['id']}"
    reads = [client.get(p, headers=other) for p in (path, f"{path}/events", f"{path}/images/0")]
    assert same["id"] != job["id"]
    assert client.post(f"{path}/cancel", headers=other).status_code == 404
    assert [answer.status_code for answer in reads] == [404, 404, 404]
    assert client.get(path, headers=mine).status_code == 200
    listed = client.get("/v1/jobs", headers=other).json()["data"]
    assert [entry["id"] for entry in listed] == [same["id"]]


def test_neither_keys_nor_prompts_are_logged(
    client: httpx.Client, names: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client.post("/generate", json=BODY, headers=bearer(names["shop"]))
        client.post("/generate", json=BODY, headers=bearer("rd-wrong"))
    logged = " ".join(r.getMessage() for r in caplog.records if r.name.startswith("server"))
    assert names["shop"] not in logged
    assert "rd-wrong" not in logged
    assert "老虎" not in logged


def test_file_holds_hashes_only(names: dict[str, Any]) -> None:
    assert names["shop"] not in names["path"].read_text()


def test_every_stored_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_key(str(number)) for number in range(5)]
    compared: list[tuple[str, str]] = []
    honest = module.hmac.compare_digest

    def spy(left: str, right: str) -> bool:
        compared.append((left, right))
        return honest(left, right)

    monkeypatch.setattr("server.keys.hmac.compare_digest", spy)
    keys = Keys([key for _, key in made])
    assert keys.owner(made[0][0]) == "0"
    assert keys.owner("nobody") is None
    assert len(compared) == 10


def test_allowance_is_of_seconds_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("server.keys.time.monotonic", lambda: now[0])
    keys = Keys([Key(name="shop", sha256="0" * 64, seconds_per_minute=6.0)])
    keys.spend("shop", 4.0)
    with pytest.raises(Problem) as refused:
        keys.spend("shop", 4.0)
    assert (refused.value.status, refused.value.retry_after) == (429, pytest.approx(20.0))
    now[0] = 20.1
    keys.spend("shop", 4.0)
    now[0] = 80.2
    keys.spend("shop", 60.0)  # dearer than a whole minute: a full purse is enough, and then debt
    with pytest.raises(Problem):
        keys.spend("shop", 0.1)
    keys.spend("someone without a limit", 1e9)


def test_used_up_allowance_is_429_with_retry_after(
    pipeline: Any, serving: Any, tmp_path: Path
) -> None:
    text, key = new_key("poor")
    poor = key.model_dump() | {"seconds_per_minute": 0.001}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [poor]}))
    with serving(Settings(keys_file=path), pipeline) as client:
        first, second = (client.post("/generate", json=BODY, headers=bearer(text)) for _ in "12")
        assert 't2i_requests_total{status="429"} 1.0' in client.get("/metrics").text
    assert first.status_code == 200
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limited")
    assert int(second.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "content", ["", "{}", '{"keys": []}', '{"keys": [{"name": "a", "sha256": "short"}]}']
)
def test_wrong_files_are_refused_at_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(InvalidRequestError, match=r"keys\.json"):
        Keys.read(path)


def test_command_gives_a_key_and_its_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shop"]) == 0
    told = capsys.readouterr()
    key = Key.model_validate_json(told.out)
    assert Keys([key]).owner(told.err.strip()) == "shop"


def test_slow_body_is_408(client: httpx.Client, names: dict[str, Any], slow: Callable) -> None:
    answer = client.post("/generate", content=slow(), headers=SLOW | bearer(names["shop"]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "slow_body")
    assert 't2i_requests_total{status="408"}' in client.get("/metrics").text
    again = client.post("/generate", json=BODY, headers=bearer(names["shop"]))
    assert again.status_code == 200


SLOW = {"Content-Type": "application/json"}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Iterator[bytes]]:
    """A body that stops in the middle."""
    import time

    monkeypatch.setattr("server.middleware.BODY_SECONDS", 0.2)

    def body() -> Iterator[bytes]:
        yield b'{"prompt": '
        time.sleep(1.0)
        yield b'"x"}'

    return body


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_neither_keys_nor_addresses_are_in_pictures(
    client: httpx.Client, names: dict[str, Any], kind: str
) -> None:
    headers = bearer(names["shop"]) | {"X-Forwarded-For": "203.0.113.77", "Cookie": "sid=s3cret"}
    body = BODY | {"output_format": kind, "response_format": "binary"}
    picture = client.post("/generate", json=body, headers=headers).content
    kept = json.loads(names["path"].read_text())["keys"]
    for secret in (names["shop"], "203.0.113.77", "s3cret", kept[0]["sha256"], str(names["path"])):
        assert secret.encode() not in picture
