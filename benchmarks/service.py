"""What the service survives and what it costs, in figures: `python benchmarks/service.py NAME`.

Every NAME is one measurement on the micro model (see `--help`); its figures are printed, and kept
under its name in docs/results/service.json. The exit code says whether the bar was kept.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
    from service_kills import Plan, survive

    from rapid_diffusion.testing import build_micro_model

    model = build_micro_model(folder / "micro")
    plan = Plan(given.kills, given.jobs, given.window, given.minutes, given.own_process)
    report = survive(model, folder / "state", plan)
    figures = {name: value for name, value in asdict(report).items() if name != "seen"}
    # Nothing can be lost where nothing was accepted, or nothing was interrupted.
    meant = report.accepted >= given.jobs // 4 and report.interrupted > 0
    return Finding(figures, meant and not (report.lost or report.different))


def load(folder: Path, given: argparse.Namespace) -> Finding:
    """requests of many clients at once, and the turns of the event loop by processor time"""
    from service_load import load as measure

    figures = measure(folder, given.requests, given.clients)
    return Finding(figures, figures["errors"] == 0 and figures["loop_turn_cpu_ms"]["p99"] < 5)


def overload(folder: Path, given: argparse.Namespace) -> Finding:
    """ten times as many requests as can be drawn"""
    from service_load import overload as measure

    figures = measure(folder, given.seconds, 10.0)
    bad = figures["refused_without_retry_after"] + figures["other_statuses"]
    return Finding(figures, bad == 0 and figures["goodput_ratio"] >= 0.95)


def overhead(folder: Path, given: argparse.Namespace) -> Finding:
    """what the service adds to the engine for one client, besides encoding"""
    from service_load import overhead as measure

    figures = measure(folder, given.requests)
    return Finding(figures, figures["overhead_ms"]["p50"] <= 5)


def interleavings(_folder: Path, given: argparse.Namespace) -> Finding:
    """random orders of submit, cancel, disconnect, and what the device does"""
    from interleavings import interleave

    logging.disable()  # thousands of tracebacks, all of them meant
    interleave(given.examples, shrink=False)
    return Finding({"stories": given.examples, "rules_each": 25, "wrong": 0}, True)


def deaths(folder: Path, given: argparse.Namespace) -> Finding:
    """workers killed and stopped: how soon that is told, how soon there is another"""
    from service_ends import deaths as measure

    figures = measure(folder, given.times)
    return Finding(figures, figures["slowest_told"] < 2 and figures["slowest_back"] < 30)


def shutdowns(folder: Path, _given: argparse.Namespace) -> Finding:
    """three signals to the worker, the server and both, at rest and at work"""
    from service_ends import shutdowns as measure

    cells = [asdict(cell) for cell in measure(folder)]
    kept = all(cell["kept"] for cell in cells)
    return Finding({"cells": cells, "cells_kept": sum(c["kept"] for c in cells)}, kept)


def soak(folder: Path, given: argparse.Namespace) -> Finding:
    """everything at once, for long"""
    from soak import soak as measure

    figures = measure(folder, given.minutes)
    slope = figures["memory_slope_mib_per_hour"]["second_half"]
    return Finding(figures, not figures["wrong"] and slope < 5 and figures["p99_drift"] < 0.25)


def contract(folder: Path, given: argparse.Namespace) -> Finding:
    """random requests against the OpenAPI document"""
    from contract import examine
    from micro_server import running

    with running(folder, state=folder / "state", job_limit=100_000, queue_size=64) as server:
        found = examine(server.url, given.cases, 0, folder)
    sys.stderr.write(found.output)
    figures = {name: value for name, value in asdict(found).items() if name != "output"}
    figures |= {"cases_an_operation": given.cases, "server_errors": found.server_errors}
    return Finding(figures, not (found.failures or found.server_errors or found.exit_code))


MEASUREMENTS: dict[str, Callable[[Path, argparse.Namespace], Finding]] = {
    made.__name__: made
    for made in (
        kills,
        load,
        overload,
        overhead,
        interleavings,
        deaths,
        shutdowns,
        soak,
        contract,
    )
}


def main() -> None:
    """Measure, print, keep."""
    given = _options()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        finding = MEASUREMENTS[given.name](Path(folder), given)
    command = f"python benchmarks/service.py {' '.join(sys.argv[1:])}"
    minutes = round((time.monotonic() - began) / 60, 1)
    busy = [round(number, 1) for number in os.getloadavg()]
    told = {"command": command, "kept": finding.kept, "took_minutes": minutes, "load_average": busy}
    told |= finding.figures
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
    parser.add_argument("--requests", type=int, default=10_000, help="load, overhead")
    parser.add_argument("--clients", type=int, default=64, help="load")
    parser.add_argument("--seconds", type=float, default=60.0, help="overload: of each part")
    parser.add_argument("--examples", type=int, default=100_000, help="interleavings")
    parser.add_argument("--times", type=int, default=5, help="deaths: of each kind")
    parser.add_argument("--cases", type=int, default=2000, help="contract: an operation")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--window", type=float, default=0.5, help="kills: at most so many seconds")
    parser.add_argument("--minutes", type=float, default=60.0, help="kills: no longer; soak")
    parser.add_argument("--own-process", action="store_true", help="kills: the worker apart")
    return parser.parse_args()


if __name__ == "__main__":
    main()
