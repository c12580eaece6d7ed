"""`OUTPUT/progress.html`: how far a training is, its curves and newest pictures, in one file."""

import base64
import html
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapid_diffusion.files import write_bytes
from rapid_diffusion.training.progress import LOG, read_log

PAGE = "progress.html"
EVERY_SECONDS = 5.0
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 200, 56, 24, 8
SHEETS = 3
POINTS = 400

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="10">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 45rem }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 11px; fill: #555 }}
img {{ image-rendering: pixelated; width: 100%; max-width: 34rem }} figure {{ margin: 1rem 0 }}
figcaption, .facts {{ color: #555 }}
</style>
<h1>{title}</h1>
<p class="facts">{written}. This page reloads itself.</p>
"""


class ProgressPage:
    """The page of one training; writing it costs milliseconds and is done every few seconds."""

    def __init__(self, output: Path, title: str, captions: Sequence[str] = ()) -> None:
        self.output, self.title, self.captions = output, title, captions
        self._next = 0.0

    def update(self) -> None:
        """Write the page anew unless that was just done."""
        if time.monotonic() >= self._next:
            self.write()
            self._next = time.monotonic() + EVERY_SECONDS

    def write(self) -> None:
        """Write the page from the logs and sheets there are, whole or not at all."""
        written = time.strftime("Written %Y-%m-%d %H:%M:%S %Z")
        page = HEAD.format(title=html.escape(self.title), written=html.escape(written))
        logs = (self.output / "stages").glob(f"*/{LOG}")
        newest_first = sorted(logs, key=lambda log: log.stat().st_mtime, reverse=True)
        page += "".join(self._stage(log.parent) for log in newest_first)
        write_bytes(self.output / PAGE, page.encode())

    def _stage(self, folder: Path) -> str:
        lines = read_log(folder / LOG)
        if not lines:
            return ""
        parts = [f"<h2>{html.escape(folder.name)}</h2>", _facts(lines[-1]), curve(lines)]
        sheets = sorted(folder.glob("samples/*.png"), key=lambda file: int(file.stem))
        parts += [self._sheet(file) for file in sheets[: -SHEETS - 1 : -1]]
        return "\n".join(parts) + "\n"

    def _sheet(self, file: Path) -> str:
        said = "，".join(self.captions)
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        return (
            f'<figure><img alt="{html.escape(said)}" src="data:image/png;base64,{data}">'
            f"<figcaption>Step {int(file.stem):,}: {html.escape(said)}</figcaption></figure>"
        )


def _facts(line: dict[str, Any]) -> str:
    """One paragraph on where a stage is; a log of an older version lacks some of it."""
    told = [f"step {line['step']:,}", f"loss {line['loss']:.4f}"]
    if "samples_per_second" in line:
        told.append(f"{line['samples_per_second']:.1f} samples a second")
    used = line.get("cuda_peak_mib", line.get("memory_mib"))
    if used is not None:
        told.append(f"{used / 1024:.1f} GiB")
    if line.get("seconds_left"):
        told.append(f"{duration(line['seconds_left'])} left")
    return f'<p class="facts">{", ".join(told)}</p>'


def duration(seconds: float) -> str:
    """Hours and minutes, or what is finer."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def curve(lines: Sequence[dict[str, Any]]) -> str:
    """The loss over the steps as an SVG, thinned to `POINTS` means of neighbours."""
    size = math.ceil(len(lines) / POINTS)
    groups = [lines[start : start + size] for start in range(0, len(lines), size)]
    losses = [sum(line["loss"] for line in group) / len(group) for group in groups]
    steps = [group[-1]["step"] for group in groups]
    low, high = min(losses), max(losses)
    span = high - low or max(abs(high), 1e-9)
    across, down = (WIDTH - LEFT - 8) / max(steps[-1], 1), (HEIGHT - BOTTOM - TOP) / span
    points = " ".join(
        f"{LEFT + step * across:.1f},{TOP + (high - loss) * down:.1f}"
        for step, loss in zip(steps, losses, strict=True)
    )
    floor = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss over steps">'
        f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - 8}" fill="none" stroke="#999"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 10}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">{high - span:.4g}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">step {steps[-1]:,}</text>'
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/></svg>'
    )
