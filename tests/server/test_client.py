"""`examples/client.py` gets pictures from a server, and says what the server refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from PIL import Image

from server.keys import new_key
from server.settings import Settings

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "client.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("client", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_writes_a_picture(client: httpx.Client, tmp_path: Path) -> None:
    url, file = str(client.base_url).rstrip("/"), tmp_path / "tiger.png"
    command = [sys.executable, str(SCRIPT), "老虎", str(file), url]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    with Image.open(file) as picture:
        assert picture.size == (64, 64)
    assert run.stdout.startswith(f"{file}: seed ")


def test_wishes_reach_the_server_and_refusals_come_back(
    client: httpx.Client, example: ModuleType
) -> None:
    url = str(client.base_url).rstrip("/")
    assert example.generate("老虎", url, seed=7)["data"][0]["seed"] == 7
    with pytest.raises(ValueError, match="num_inference_steps must be at most 100"):
        example.generate("老虎", url, num_inference_steps=101)


def test_the_key_is_sent(
    example: ModuleType,
    pipeline: Any,
    serving: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, kept = new_key("shop")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [kept.model_dump()]}))
    with serving(Settings(keys_file=tmp_path / "keys.json"), pipeline) as client:
        url = str(client.base_url).rstrip("/")
        with pytest.raises(ValueError, match="key"):
            example.generate("老虎", url)
        monkeypatch.setenv("RAPID_DIFFUSION_KEY", text)
        assert len(example.generate("老虎", url)["data"]) == 1


def test_it_is_thirty_lines_or_so_and_needs_nothing_installed() -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= 30
    assert "httpx" not in source
