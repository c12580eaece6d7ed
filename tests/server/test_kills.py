"""The short form of `benchmarks/service.py --kills`: servers are killed, no job is lost."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "service.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_service", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_service", module)
    spec.loader.exec_module(module)
    return module


def test_five_killed_servers_lose_no_job_and_change_no_pixel(
    script: Any, micro_model_folder: Path, tmp_path: Path
) -> None:
    report = script.survive(micro_model_folder, tmp_path / "state", 5, 20, own_process=False)
    assert report.kills == 5
    assert report.accepted > 0
    assert (report.lost, report.different) == (0, 0)
