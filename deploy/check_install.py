"""Are the packages that pyproject.toml asks for here, in the versions that were tested?

`python deploy/check_install.py cpu|cuda|dev` looks at the environment of its interpreter. It prints
what is wrong on stderr and leaves with 1, or prints the number of packages it found right.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"cpu": ["server"], "cuda": ["server"], "dev": ["server", "dev"]}


def wanted(target: str) -> list[Requirement]:
    """The requirements of a target, by pyproject.toml."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = settings["project"]
    lines = list(project["dependencies"])
    for extra in EXTRAS[target]:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def tested() -> dict[str, Version]:
    """The versions of constraints.txt, by package."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {plain(name): Version(version) for name, version in pins}


def plain(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def problem(requirement: Requirement, pins: dict[str, Version], target: str) -> str | None:
    """What is wrong with one package; None where nothing is."""
    name = requirement.name
    try:
        found = Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return f"{name} is missing; {requirement} is wanted"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{name} is {found}; {requirement} is wanted"
    pin = pins.get(plain(name))
    if pin is not None and Version(found.public) != pin:
        return f"{name} is {found}; {pin} was tested (constraints.txt)"
    if name == "torch" and target == "cuda" and found.local == "cpu":
        return f"torch is {found}, which has no CUDA; set TORCH_INDEX_URL to an index that has it"
    return None


def main(target: str) -> int:
    """Check one target; the exit code."""
    requirements, pins = wanted(target), tested()
    found = [problem(requirement, pins, target) for requirement in requirements]
    wrong = [line for line in found if line is not None]
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    if not wrong:
        sys.stdout.write(f"{len(requirements)} packages are as {target} wants them\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        sys.exit(f"usage: check_install.py {' | '.join(EXTRAS)}")
    sys.exit(main(sys.argv[1]))
