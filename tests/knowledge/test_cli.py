import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from knowledge.cli import main

FACTS = """{"subject": "老虎", "alias": ["大虫"], "data": [{"predicate": "天敌", "object": "人"}]}
{"subject": "人", "data": [{"predicate": "养", "object": "老虎"}, {"predicate": "", "object": "x"}]}
"""


@pytest.fixture
def built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "facts.jsonl").write_text(FACTS, "utf-8")
    out = tmp_path / "store"
    command = [
        "build",
        str(tmp_path / "facts.jsonl"),
        "--format",
        "jsonl",
        "--out",
        str(out),
        "--json",
    ]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["refused"] == {"triple: empty field": 1}
    return out


def test_build_train_link_verify_and_activate_work_in_turn(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (built / "CURRENT").read_text().strip()
    assert main(["train", str(built), "--dimension", "4", "--epochs", "2", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)["version"]
    assert trained != first
    assert main(["link", str(built), "大虫和人", "--json"]) == 0
    assert [link["key"] for link in json.loads(capsys.readouterr().out)] == ["老虎", "人"]
    assert main(["link", str(built), "大虫"]) == 0
    assert capsys.readouterr().out == "0\t2\t大虫\t老虎\t1.000\n"
    assert main(["verify", str(built)]) == 0
    assert f"version\t{trained}\n" in capsys.readouterr().out
    assert main(["activate", str(built), first]) == 0
    assert (built / "CURRENT").read_text().strip() == first


def test_a_refusal_is_one_line_on_stderr_and_status_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "knowledge", "verify", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {tmp_path}: holds neither manifest.json nor CURRENT")
    assert result.stderr.count("\n") == 1


def test_damage_is_reported_by_name(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = (built / "CURRENT").read_text().strip()
    (built / version / "val.bin").write_bytes(b"broken")
    with caplog.at_level(logging.ERROR):
        assert main(["verify", str(built)]) == 1
    assert "val.bin" in caplog.text


def test_linking_needs_no_torch(built: Path) -> None:
    code = (
        "import sys; from knowledge.cli import main; "
        f"main(['link', {str(built)!r}, '大虫']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_bench_counts_and_times_every_call(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", str(built), "--dimension", "4", "--epochs", "1"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("knowledge.bench._TEXTS", 20)
    assert main(["bench", str(built), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["entities"], found["triples"], found["swaps"]["swaps"]) == (2, 2, 50)
    assert found["links_per_text"] > 1
    assert found["private_bytes_of_a_further_process"] < 20e6


def test_link_tells_what_is_not_understood(
    built: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    assert main(["link", str(built), "大虫和人", "--max-entities", "1"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert " ? 人 is no link (too_many): 人" in caplog.messages
