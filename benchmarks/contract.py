"""Does the service keep to its document: `python benchmarks/service.py contract --cases 2000`.

schemathesis asks a running server on the micro model everything that the document allows, and much
that it does not, alone and in chains of requests. What counts: answers with a status or a shape
that the document does not have, and errors of the server.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The document cannot say which sizes and schedulers the loaded model has, nor that a prompt must
# show something: an answer of 422 to what its schemas allow is as it should be. And a job's picture
# is not there (404) before the job has succeeded: on a busy machine, after the next question.
LEFT_OUT = "positive_data_acceptance,ensure_resource_availability"


@dataclass
class Examination:
    """What came of it: how often each status was answered, and every failed check in words."""

    cases: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    checks: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    linked: int = 0  # cases that took up what an earlier answer gave
    exit_code: int = 0
    output: str = field(default="", repr=False)

    @property
    def server_errors(self) -> int:
        """Answers with a status of 500 or more."""
        return sum(count for status, count in self.statuses.items() if status >= "500")


def examine(url: str, cases: int, seed: int, folder: Path, *more: str) -> Examination:
    """Ask the server at `url`: `cases` an operation, and as many chains; notes go to `folder`."""
    report = folder / "report.ndjson"
    program = Path(sys.executable).parent / "st"
    command = [program, "run", f"{url}/openapi.json", "--max-examples", str(cases)]
    command += ["--seed", str(seed), "--exclude-checks", LEFT_OUT, "--continue-on-failure"]
    command += ["--report", "ndjson", "--report-ndjson-path", report, "--no-color"]
    command += ["--generation-database", "none", "--output-sanitize", "false", *more]
    ran = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )
    examination = _read(_scenarios(report))
    examination.exit_code, examination.output = ran.returncode, ran.stdout[-6000:] + ran.stderr
    return examination


def _scenarios(report: Path) -> Iterator[dict[str, Any]]:
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            found = json.loads(line).get("ScenarioFinished")
            if found is not None and "cases" in found["recorder"]:  # none: nothing to ask here
                yield found["recorder"]


def _read(scenarios: Iterator[dict[str, Any]]) -> Examination:
    statuses, failures, found = Counter[str](), Counter[str](), Examination()
    for recorder in scenarios:
        found.linked += sum(bool(c.get("transition")) for c in recorder["cases"].values())
        for case in recorder["interactions"].values():
            found.cases += 1
            answer = case.get("response")
            statuses["none" if answer is None else str(answer["status_code"])] += 1
        for check in (c for checks in recorder["checks"].values() for c in checks):
            found.checks += 1
            if check["status"] != "success":
                failures[f"{recorder['label']}: {check['name']}"] += 1
    found.statuses, found.failures = dict(sorted(statuses.items())), dict(failures)
    return found
