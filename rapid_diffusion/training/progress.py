"""What a training says as it goes: a bar for people, a line of JSON for everything else."""

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm

from rapid_diffusion.files import write_bytes
from rapid_diffusion.training.config import LoopConfig, learning_rate

LOG = "log.jsonl"
MEBIBYTE = 2**20


@dataclass
class Reporter:
    """The bar and the log of a stage; says and writes nothing where `quiet`."""

    path: Path
    name: str
    config: LoopConfig
    step: int
    quiet: bool = False
    _since: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        if not self.quiet:
            forget_after(self.path, self.step)
        self._bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.name,
            unit="step",
            file=sys.stderr,
            disable=self.quiet,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One step more."""
        self._bar.update()

    def write(self, step: int, seconds: float, losses: list[float]) -> None:
        """A line about the `losses` since the last one. `seconds`: of training in all."""
        now = time.monotonic()
        rate = (step - self.step) * self.config.batch / max(now - self._since, 1e-9)
        self.step, self._since = step, now
        if self.quiet:
            return
        left = (self.config.steps - step) * self.config.batch / rate
        line: dict[str, Any] = {
            "step": step,
            "samples": step * self.config.batch,
            "loss": sum(losses) / len(losses),
            "learning_rate": learning_rate(self.config, step - 1),
            "seconds": round(seconds, 4),
            "seconds_left": round(left, 1),
            "samples_per_second": round(rate, 2),
            **memory(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # no checkpoint may be ahead of its log
        used = line.get("cuda_peak_mib", line["memory_mib"])
        self._bar.set_postfix(
            loss=f"{line['loss']:.4f}", samples=f"{rate:.1f}/s", memory=f"{used / 1024:.1f}GiB"
        )


def memory() -> dict[str, int]:
    """MiB of this process now and at most, and at most on the CUDA device if one is used."""
    used = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    statm = Path("/proc/self/statm")
    if statm.is_file():
        pages = int(statm.read_text(encoding="ascii").split()[1])
        used["memory_mib"] = pages * os.sysconf("SC_PAGE_SIZE") // MEBIBYTE
    else:
        used["memory_mib"] = used["peak_memory_mib"]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        used["cuda_peak_mib"] = torch.cuda.max_memory_allocated() // MEBIBYTE
    return used


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def forget_after(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint: they will come again."""
    if path.is_file():
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
