"""What the service survives and what it costs, in figures: `python benchmarks/service.py NAME`.

Every NAME is one measurement on the micro model (see `--help`); its figures are printed, and kept
under its name in docs/results/service.json. The exit code says whether the bar was kept.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "service.json"


@dataclass(frozen=True)
class Finding:
    """The figures of one measurement, and whether they keep its bar."""

    figures: dict[str, Any]
    kept: bool


def kills(folder: Path, given: argparse.Namespace) -> Finding:
    """kill -9 of the server at random points while jobs are accepted and drawn"""
    from dataclasses import asdict

    from service_kills import Plan, survive

    from rapid_diffusion.testing import build_micro_model

    model = build_micro_model(folder / "micro")
    plan = Plan(given.kills, given.jobs, given.window, given.minutes, given.own_process)
    report = survive(model, folder / "state", plan)
    figures = {name: value for name, value in asdict(report).items() if name != "seen"}
    return Finding(figures, not (report.lost or report.different))


MEASUREMENTS: dict[str, Callable[[Path, argparse.Namespace], Finding]] = {"kills": kills}


def main() -> None:
    """Measure, print, keep."""
    given = _options()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        finding = MEASUREMENTS[given.name](Path(folder), given)
    command = f"python benchmarks/service.py {' '.join(sys.argv[1:])}"
    seconds = round(time.monotonic() - began, 1)
    told = {"command": command, "kept": finding.kept, "seconds": seconds, **finding.figures}
    print(json.dumps(told, indent=1))
    if given.keep:
        keep(given.name, told)
    raise SystemExit(not finding.kept)


def keep(name: str, told: dict[str, Any]) -> None:
    """Put figures under their name into the results, beside the others."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    text = json.dumps(known | {name: told}, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=MEASUREMENTS)
    parser.add_argument("--keep", action="store_true", help=f"write into {RESULTS.name}")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--window", type=float, default=0.5, help="kills: at most so many seconds")
    parser.add_argument("--minutes", type=float, default=60.0, help="no longer than that")
    parser.add_argument("--own-process", action="store_true", help="kills: the worker apart")
    return parser.parse_args()


if __name__ == "__main__":
    main()
