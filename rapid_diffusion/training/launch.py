"""`rapid-diffusion train CONFIG --processes N`: that command in N processes, by `accelerate`."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError
from rapid_diffusion.training.config import read_training_config


def launch(processes: int, config: Path, stage: str | None = None, *, resume: bool = True) -> int:
    """Train in that many processes; the exit code comes back.

    On a machine with CUDA each has a device of its own; elsewhere they share the cores. What is
    wrong with the configuration is said here, once: `InvalidRequestError`.
    """
    if processes < 1:
        raise InvalidRequestError("processes", f"{processes}; allowed: 1 or more")
    if find_spec("accelerate") is None:
        raise MissingDependencyError(
            "several processes need the package accelerate: pip install 'rapid-diffusion[train]'"
        )
    _check(processes, config, stage)
    arguments = ["train", str(config), "--resume" if resume else "--fresh"]
    arguments += [] if stage is None else ["--stage", stage]
    return subprocess.run(command(processes, arguments), check=False).returncode


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The command line of `rapid-diffusion ARGUMENTS` in that many processes."""
    # Without CUDA too it is `--multi_gpu` that makes accelerate start more than one process.
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "rapid_diffusion", *arguments),
    ]


def _check(processes: int, config: Path, stage: str | None) -> None:
    for name, loop in read_training_config(config).loops.items():
        count = processes * loop.accumulate
        if stage in (None, name) and loop.batch % count:
            raise InvalidRequestError(
                f"loops.{name}.batch",
                f"{loop.batch}; allowed: multiples of {count} (processes x accumulate)",
            )
