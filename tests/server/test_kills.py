"""The short form of `benchmarks/service.py kills`: servers are killed, no job is lost."""

from pathlib import Path
from typing import Any


def test_five_killed_servers_lose_no_job_and_change_no_pixel(
    benchmark_script: Any, micro_model_folder: Path, tmp_path: Path
) -> None:
    script = benchmark_script("service_kills")
    report = script.survive(micro_model_folder, tmp_path / "state", script.Plan(5, 20))
    assert report.kills == 5
    assert report.accepted > 0
    assert (report.lost, report.different) == (0, 0)
