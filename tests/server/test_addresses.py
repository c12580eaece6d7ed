"""`response_format` url: pictures that stay for a while, at an address for their key only."""

import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from server.encoding import EncodedImage
from server.errors import Problem
from server.images import ImageStore
from server.keys import new_key
from server.settings import Settings

BODY = {"prompt": "老虎", "seed": 7, "response_format": "url"}
PICTURE = EncodedImage(b"x" * 100, "image/png", 1, 1, "0" * 64)
NAME = f"img_{2**47:012x}{0:020x}"  # of the year 6429
OLD = f"img_{0:032x}"  # of 1970


@pytest.fixture(scope="module")
def kept(
    pipeline: Any, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Path]]:
    state = tmp_path_factory.mktemp("kept")
    with serving(Settings(state=state), pipeline) as client:
        yield client, state


def ask(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/generate", json=BODY | changes)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_address_gives_the_file_of_the_answer(kept: Any, kind: str) -> None:
    client, _ = kept
    entry = ask(client, output_format=kind)["data"][0]
    file = httpx.get(entry["url"])  # absolute: a client needs nothing else
    pixels = np.asarray(Image.open(io.BytesIO(file.content)))
    assert "b64_json" not in entry
    assert (file.status_code, file.headers["content-type"]) == (200, f"image/{kind}")
    assert file.headers["x-pixel-sha256"] == entry["pixel_sha256"]
    if kind == "png":
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == entry["pixel_sha256"]


def test_each_picture_has_an_address_of_its_own(kept: Any) -> None:
    client, _ = kept
    entries = ask(client, num_images_per_prompt=3)["data"]
    files = [client.get(entry["url"]) for entry in entries]
    assert [f.headers["x-pixel-sha256"] for f in files] == [e["pixel_sha256"] for e in entries]
    assert len({entry["pixel_sha256"] for entry in entries}) == 3


def test_openai_has_addresses_too_and_a_request_id_does_not_give_them_away(kept: Any) -> None:
    client, _ = kept
    body = {"prompt": "老虎", "seed": 7, "response_format": "url"}
    headers = {"X-Request-Id": "1" * 32}
    answers = [client.post("/v1/images/generations", json=body, headers=headers) for _ in range(2)]
    urls = {answer.json()["data"][0]["url"] for answer in answers}
    assert len(urls) == 2
    assert all(client.get(url).status_code == 200 for url in urls)
    assert not any("1" * 8 in url for url in urls)


@pytest.mark.parametrize(
    "path",
    ["img_x/0", f"{NAME}/0", f"{NAME}/-1", "..%2f..%2fjournal.sqlite3/0", "%2e%2e/0", f"{NAME}/00"],
)
def test_what_is_not_there_is_404_and_no_path_leads_out(kept: Any, path: str) -> None:
    client, _ = kept
    assert client.get(f"/v1/images/{path}").status_code == 404


def test_an_address_opens_for_its_key_only(pipeline: Any, serving: Any, tmp_path: Path) -> None:
    given = {name: new_key(name) for name in ("shop", "museum")}
    entries = [kept.model_dump() for _, kept in given.values()]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": entries}))
    headers = {n: {"Authorization": f"Bearer {text}"} for n, (text, _) in given.items()}
    settings = Settings(keys_file=tmp_path / "keys.json", state=tmp_path / "state")
    with serving(settings, pipeline) as client:
        answer = client.post("/generate", json=BODY, headers=headers["shop"])
        url = answer.json()["data"][0]["url"]
        found = [client.get(url, headers=h) for h in (headers["shop"], headers["museum"], {})]
    assert [answer.status_code for answer in found] == [200, 404, 401]
    assert found[1].json()["error"]["code"] == "image_not_found"


def test_without_a_state_it_is_refused_with_the_way_out(client: httpx.Client) -> None:
    for path in ("/generate", "/v1/images/generations"):
        problem = client.post(path, json=BODY).json()
        assert (problem["status"], problem["error"]["param"]) == (422, "response_format")
        assert "--state" in problem["detail"]
    assert client.get(f"/v1/images/{NAME}/0").json()["error"]["code"] == "jobs_off"


def test_an_accept_header_that_wants_the_picture_itself_is_a_conflict(kept: Any) -> None:
    answer = kept[0].post("/generate", json=BODY, headers={"Accept": "image/png"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "response_format")


def test_a_host_that_could_be_no_address_is_not_put_into_one(
    pipeline: Any, serving: Any, tmp_path: Path
) -> None:
    settings = Settings(
        host="0.0.0.0", allow_unauthenticated=True, content_producer="C", state=tmp_path
    )
    with serving(settings, pipeline) as client:
        for host, base in (('a"b/c', ""), ("shop.example:80", "http://shop.example:80")):
            answer = client.post("/generate", json=BODY, headers={"Host": host})
            url = answer.json()["data"][0]["url"]
            assert url.removesuffix(urlsplit(url).path) == base


@pytest.mark.parametrize("index", [0, 7])
def test_an_address_past_its_time_is_410_whatever_was_there(kept: Any, index: int) -> None:
    client, _ = kept
    answer = client.get(f"/v1/images/{OLD}/{index}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "image_expired")


def test_pictures_go_when_their_time_is_over_and_give_their_room_back(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, quota=10_000, hours=1)
    store.keep(OLD, "shop", [PICTURE])
    held = store.held
    os.utime(tmp_path / OLD, (0, 0))
    with pytest.raises(Problem, match="image_expired"):
        store.read(OLD, "0", "shop")
    assert held >= 100
    store.sweep()
    assert (store.held, list(tmp_path.iterdir())) == (0, [])


def test_the_quota_is_shared_with_jobs_and_counted_again_after_a_restart(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, quota=1000, hours=1)
    with store.room(600, others=300), pytest.raises(Problem, match="storage_unavailable"):
        store.room(200, others=300).__enter__()
    store.keep(NAME, "shop", [PICTURE])
    assert ImageStore(tmp_path, quota=1000, hours=1).held == store.held > 100


def test_room_is_never_lost_or_sold_twice(tmp_path: Path) -> None:
    store, refused = ImageStore(tmp_path, quota=1000, hours=1), []

    def hold() -> None:
        for _ in range(200):
            try:
                with store.room(400, others=0):
                    assert store.held <= 1000
            except Problem:
                refused.append(1)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.held == 0


def test_a_disk_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path, quota=1000, hours=1)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._store, "write", full)
    with pytest.raises(Problem) as caught:
        store.keep(NAME, "shop", [PICTURE])
    assert (caught.value.status, caught.value.values["reason"]) == (503, "No space left on device")
