"""The benchmark of best of several, on the micro model."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "best_of.py"


def test_the_benchmark_compares_the_best_with_the_first(
    micro_model_folder, data_folder, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "results" / "best-of.json"
    arguments = ["--model", micro_model_folder, "--data", data_folder, "--out", out]
    arguments += ["--candidates", 3, "--prompts", 2]
    monkeypatch.setattr(sys, "argv", ["best_of.py", *map(str, arguments)])
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as where it is run from there
    runpy.run_path(str(SCRIPT), run_name="__main__")
    report = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == report
    assert list(report["recall"]) == ["trained_pairs", "held_out_pairs", "together"]
    assert [row["what"] for row in report["recall"]["together"]] == ["R@1", "R@5"]
    assert report["recall"]["together"][0]["pictures"] == 4
    assert report["mean_score_of_best"] >= report["mean_score_of_first"]
    assert sum(report["share_chosen"]) == pytest.approx(1, abs=1e-3)
