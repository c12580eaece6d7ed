"""Who waits how long: `python benchmarks/load.py`.

Requests of 4 to 50 steps and guidance 1 to 9 arrive at random (Poisson), whether or not others are
done: at the shared engine, where a request takes its place at the next step, and at a queue that
draws one request at a time, first come first served. The rate is a share of what the queue can do.

The engine is the real one. Its time is told in one of two ways: `--real` runs the model for every
step and counts what the step took (processor time on a CPU, so that other programs count little).
Without it, the model is run beforehand for each number of rows, and every step then counts what a
call of so many rows took: hundreds of requests in a minute.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from first_picture import machine
from torch import Tensor

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.denoising.engine import (
    FIT_LIMIT,
    Engine,
    Guidance,
    RowRequest,
    Rows,
    row_noise,
)
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.images.convert import unit_to_pixels
from rapid_diffusion.images.png import encode_png
from rapid_diffusion.text.encoder import TextStates

SHORT = 8
WAYS: dict[str, Rows] = {"shared, rows fit": "fit", "shared, 8 rows": 8, "shared, 2 rows": 2}
QUEUE = "one at a time"


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes (seconds), its steps and its guidance."""

    at: float
    steps: int
    guidance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--device", default=None)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--real", action="store_true", help="run the model for every step")
    parser.add_argument("--out", type=Path, default=Path("docs/results/load.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options.model, options.device, real=options.real)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine() | {"device": bench.device_name},
        "time": "processor" if bench.pipe.device.type == "cpu" else "wall clock",
        "steps_are": "run" if options.real else "counted at what a call of as many rows took",
        "milliseconds_of_a_call": {str(n): round(1000 * s, 2) for n, s in bench.costs.items()},
        "milliseconds_to_finish_a_picture": round(1000 * bench.finishing, 2),
        **bench.compare(options.requests, options.load),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


class Bench:
    """A model, and what its parts cost on this machine."""

    def __init__(self, model: str, device: str | None, *, real: bool) -> None:
        self.pipe = RapidDiffusionPipeline.from_pretrained(model, device=device)
        self.real = real
        cuda = self.pipe.device.type == "cuda"
        self.device_name = torch.cuda.get_device_name(self.pipe.device) if cuda else "cpu"
        states = self.pipe.encode_text(self.pipe.tokenize(["三维立体风格的老虎", ""]))
        self.states, self.empty = (TextStates(states.hidden[n], states.mask[n]) for n in (0, 1))
        denoiser = self.pipe.model.denoiser
        self.shape = (denoiser.channels, denoiser.sample_size, denoiser.sample_size)
        self.costs = {rows: self._call(rows) for rows in range(1, FIT_LIMIT + 1)}
        self.finishing = self._finish()
        self.spent = 0.0

    def compare(self, count: int, load: float) -> dict[str, Any]:
        """Waiting times under the load, and what each way does when everybody comes at once."""
        together = arrivals(count, math.inf)
        capacity = count / self.serve(together, "fit", most=1)[-1].ended
        coming = arrivals(count, load * capacity)
        report: dict[str, Any] = {"requests": count, "load": load}
        queue = times(self.serve(coming, "fit", most=1))
        report[QUEUE] = queue | {"requests_a_second": round(capacity, 3)}
        for name, rows in WAYS.items():
            found = times(self.serve(coming, rows))
            rate = count / max(done.ended for done in self.serve(together, rows))
            report[name] = found | {
                "requests_a_second": round(rate, 3),
                "throughput": round(rate / capacity, 3),
                "short_p95_times_lower": round(queue["short_p95"] / found["short_p95"], 2),
            }
        return report

    def serve(self, coming: Sequence[Arrival], rows: Rows, most: int | None = None) -> "list[Done]":
        """Every request drawn; `most`: so many may be under way. Time is what the steps took."""
        engine = Engine(self.pipe.model.denoiser if self.real else self._counted, rows)
        line, under_way, now, ended = list(reversed(coming)), {}, 0.0, list[Done]()
        while line or under_way:
            if not under_way:
                now = max(now, line[-1].at)
            while line and line[-1].at <= now and (most is None or len(under_way) < most):
                arrival = line.pop()
                under_way[engine.submit(self._request(arrival))] = arrival
            self.spent = 0.0
            began = self._now()
            tickets = engine.step()
            now += self._now() - began if self.real else self.spent
            for ticket in tickets:
                now += self.finishing
                ended.append(Done(under_way.pop(ticket), now))
        return ended

    def _counted(self, rows: Tensor, *_: Tensor) -> Tensor:
        """In place of the denoiser: counts what a call of so many rows takes."""
        self.spent += self.costs[len(rows)]
        return torch.zeros_like(rows)

    def _request(self, arrival: Arrival) -> RowRequest:
        table = SAMPLERS["dpmpp_2m"](arrival.steps, self.pipe.model.card.shift)
        guided = arrival.guidance != 1.0
        noise = row_noise(0, self.shape if self.real else (1, 1, 1)).to(self.pipe.device)
        guidance = Guidance(arrival.guidance, self.empty) if guided else None
        return RowRequest(noise, self.states, table, guidance, 0)

    @torch.inference_mode()
    def _call(self, rows: int) -> float:
        denoiser = self.pipe.model.denoiser
        noise = torch.randn(rows, *self.shape, device=self.pipe.device)
        hidden, mask = (part.expand(rows, *part.shape) for part in vars(self.states).values())
        steps = torch.full((rows,), 500.0, device=self.pipe.device)
        drafts = denoiser.drafts(hidden)
        return self._timed(lambda: denoiser(noise, steps, hidden, mask, drafts))

    @torch.inference_mode()
    def _finish(self) -> float:
        """Decoding, enlarging and encoding one picture."""
        latents = torch.randn(1, *self.shape, device=self.pipe.device)
        scale = self.pipe.upscales[-1]
        return self._timed(
            lambda: encode_png(
                unit_to_pixels(self.pipe.enlarge(self.pipe.decode(latents), scale))[0]
            )
        )

    def _timed(self, work: Callable[[], object]) -> float:
        work()
        seconds = []
        for _ in range(5):
            began = self._now()
            work()
            seconds.append(self._now() - began)
        return statistics.median(seconds)

    def _now(self) -> float:
        if self.pipe.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.pipe.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Done:
    """A request and when it was finished."""

    arrival: Arrival
    ended: float


def arrivals(count: int, rate: float) -> list[Arrival]:
    """`count` requests, `rate` a second on average (infinite: all at once); steps log-uniform."""
    random = np.random.default_rng(0)
    gaps = random.exponential(1.0, count).cumsum() / rate
    steps = np.exp(random.uniform(math.log(4), math.log(51), count)).astype(int)
    guidance = random.choice([1.0, 3.0, 5.0, 7.0, 9.0], count)
    return [
        Arrival(*row) for row in zip(gaps.tolist(), steps.tolist(), guidance.tolist(), strict=True)
    ]


def times(ended: "list[Done]") -> dict[str, float]:
    """Seconds from coming to finished picture: of all, and of those of few steps."""
    every = [done.ended - done.arrival.at for done in ended]
    short = [done.ended - done.arrival.at for done in ended if done.arrival.steps <= SHORT]
    return {
        "median": round(float(np.median(every)), 3),
        "p95": round(float(np.quantile(every, 0.95)), 3),
        "short_median": round(float(np.median(short)), 3),
        "short_p95": round(float(np.quantile(short, 0.95)), 3),
    }


if __name__ == "__main__":
    main()
