"""`rapid-diffusion train CONFIG --processes N`: that command in N processes, by `accelerate`."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `rapid-diffusion ARGUMENTS` in that many processes; the exit code comes back.

    On a machine with CUDA each has a device of its own; elsewhere they share the cores.
    """
    if processes < 1:
        raise InvalidRequestError("processes", f"{processes}; allowed: 1 or more")
    if find_spec("accelerate") is None:
        raise MissingDependencyError(
            "several processes need the package accelerate: pip install 'rapid-diffusion[train]'"
        )
    return subprocess.run(command(processes, arguments), check=False).returncode


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The command line that `launch` runs."""
    # Without CUDA too it is `--multi_gpu` that makes accelerate start more than one process.
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "rapid_diffusion", *arguments),
    ]
