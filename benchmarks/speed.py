"""How fast the UNet and a finished picture are, against peers: `python benchmarks/speed.py`.

A UNet step is one guided pair (two rows) or more, of the same weights in every set-up, in turn:

    diffusers_float32      the network as `diffusers` builds it, eager
    diffusers_bfloat16     the same in bfloat16 and channels-last
    diffusers_compiled     the same in the device's fast format through `torch.compile`
    openvino               the same in OpenVINO, in a process of its own Python (--openvino PYTHON)
    ours_plain_attention   our denoiser as a pipeline has it, but with attention written out
    ours                   the same with FlashAttention (as "auto" picks it)
    ours_fewer_products    the same with large convolutions going Winograd's way, only if named
    ours_artifacts         compiled ahead of time, weights outside (`rapid-diffusion compile`)
    ours_compiled          compiled with its weights folded in (`compile_network`)
    ours_folded            ahead of time with its weights folded in (`--weights folded`)

Presets: the model `emoji-zh`; `compact` (32x32 latents) and `sd15` (64x64), both with random
weights, since speed does not depend on them. On a CPU time is processor time of the process, so
that other programs count little; bfloat16, which a CPU without units for it would only emulate, and
`sd15` are measured there only if they are named. OpenVINO has an environment of its own:

    python -m venv out/openvino && out/openvino/bin/pip install openvino -e .

The results of each part (a preset, `picture`, `cold-start`) replace those of the same part in the
file, and say with which command and commit they were taken; `--parts` chooses.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from first_picture import PROMPT, machine
from speed_setups import SIZES, OpenVino, Setup, Setups, inputs_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.denoising.compiled import compile_network
from rapid_diffusion.images.png import encode_png
from rapid_diffusion.precision import checked_device, fast_dtype

EAGER = ["diffusers_float32", "ours_plain_attention", "ours"]
COMPILED = ["diffusers_compiled", "ours_artifacts", "ours_compiled", "ours_folded"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=["emoji-zh", *SIZES, "picture", "cold-start"])
    parser.add_argument("--setups", nargs="+", default=None, help="of the UNet")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8], help="rows of a call")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 20])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 4], help="drawn at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--openvino", type=Path, metavar="PYTHON", help="that has OpenVINO")
    parser.add_argument("--out", type=Path, default=Path("docs/results/speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = Clock(checked_device(options.device))
    sd15 = ["sd15"] if clock.device.type == "cuda" else []
    for part in options.parts or ["emoji-zh", "compact", *sd15, "picture", "cold-start"]:
        if part == "picture":
            found = {"milliseconds": picture(clock, options)}
        elif part == "cold-start":
            found = cold_start(clock)
        else:
            found = unet_step(part, clock, options)
        write(part, found, clock, options.out)


def write(part: str, found: dict[str, Any], clock: "Clock", out: Path) -> None:
    """Put a part into the file, in the place of an older one; and the table beside it."""
    report = json.loads(out.read_text()) if out.exists() else {}
    report[part] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine() | {"device": clock.name},
        "time": "wall clock" if clock.device.type == "cuda" else "processor time",
        **found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    out.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown({part: report[part]}), flush=True)


class Clock:
    """Seconds that work takes on a device: of the processor, or until a GPU is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(
        self,
        works: dict[str, Callable[[], object]],
        rounds: int,
        told: dict[str, Callable[[], float]] | None = None,
    ) -> dict[str, float]:
        """The median of each, taken in turn after two turns to warm up.

        Those of `told` say themselves how many seconds they took.
        """
        ways = {name: partial(self._timed, work) for name, work in works.items()} | (told or {})
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 2):
            for name, way in ways.items():
                seconds = way()
                if turn >= 2:
                    spent[name].append(seconds)
        return {name: statistics.median(each) for name, each in spent.items()}

    def _timed(self, work: Callable[[], object]) -> float:
        began = self.now()
        work()
        return self.now() - began


def matrix_rate(clock: Clock, side: int = 2048) -> dict[str, float]:
    """What products of square matrices reach, in GFLOP/s, by number format."""
    rates = {}
    for dtype in {torch.float32, fast_dtype(clock.device)}:
        one = torch.randn(side, side, device=clock.device).to(dtype)
        best = min(clock.seconds({"": lambda one=one: one @ one}, 1)[""] for _ in range(5))
        rates[str(dtype).removeprefix("torch.")] = round(2 * side**3 / best / 1e9, 1)
    return rates


def unet_step(preset: str, clock: Clock, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a call by set-up and rows, and what share of the matrix rate that is."""
    setups, rates = Setups(preset, clock.device), matrix_rate(clock)
    names = options.setups or [*EAGER, *COMPILED]
    if clock.device.type == "cuda" and not options.setups:
        names.append("diffusers_bfloat16")
    report: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in setups.network.parameters()),
        "matrix_rate_gflops": rates,
        "milliseconds": {},
    }
    for rows in options.batches:
        inputs = inputs_of(setups.denoiser, rows, setups.length, clock.device)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            setups.named("diffusers_float32", inputs)(*inputs)
        works = {name: called(setups.named(name, inputs), inputs) for name in names}
        peer = options.openvino and OpenVino(options.openvino, preset, rows, options.threads)
        spent = clock.seconds(works, options.rounds, {"openvino": peer.seconds} if peer else {})
        if peer:
            report["openvino"] = peer.version
            peer.close()
        rate = rates[str(fast_dtype(clock.device)).removeprefix("torch.")]
        flops = counter.get_total_flops()
        report["milliseconds"][f"{rows} rows"] = compared(spent, flops, rate)
    return report


def compared(spent: dict[str, float], flops: float, rate: float) -> dict[str, float]:
    """The figures of one number of rows; shares are of `rate` GFLOP/s, for direct convolutions."""
    ours = min(seconds for name, seconds in spent.items() if name.startswith("ours"))
    figures = {name: round(1000 * seconds, 2) for name, seconds in spent.items()}
    figures |= {"gflop": round(flops / 1e9, 2), "share": round(flops / ours / 1e9 / rate, 3)}
    figures["iterations_a_second"] = round(1 / ours, 2)
    for peer in ("diffusers_compiled", "openvino"):
        if peer in spent:
            figures[f"times_faster_than_{peer}"] = round(spent[peer] / ours, 2)
    return figures


def called(setup: Setup, inputs: list[Tensor]) -> Callable[[], Tensor]:
    return torch.inference_mode()(lambda: setup(*inputs))


def picture(clock: Clock, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of finished pictures of `emoji-zh` (enlarged, PNG), by steps and number."""
    pipes = {"eager float32": RapidDiffusionPipeline.from_pretrained(dtype=torch.float32)}
    pipes["ours"] = RapidDiffusionPipeline.from_pretrained(device=clock.device)
    pipes["ours, compiled"] = RapidDiffusionPipeline.from_pretrained(device=clock.device)
    for network in (pipes["ours, compiled"].model.denoiser, upscaler(pipes["ours, compiled"])):
        compile_network(network)
    report = {}
    for steps in options.steps:
        for count in options.pictures:
            works = {name: drawing(pipe, steps, count) for name, pipe in pipes.items()}
            spent = clock.seconds(works, max(2, options.rounds // 2))
            report[f"{steps} steps, {count} at once"] = {
                name: round(1000 * seconds, 1) for name, seconds in spent.items()
            }
    return report


def upscaler(pipe: RapidDiffusionPipeline) -> nn.Module:
    found = pipe.model.upscaler
    assert found is not None, "emoji-zh has an upscaler"
    return found.network


def drawing(pipe: RapidDiffusionPipeline, steps: int, count: int) -> Callable[[], object]:
    wishes: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 5.0, "seed": 0}

    def draw() -> list[bytes]:
        result = pipe(PROMPT, num_images_per_prompt=count, output_type="numpy", **wishes)
        return [encode_png(pixels) for pixels in result.images]

    return draw


def cold_start(clock: Clock) -> dict[str, float]:
    """From nothing to the first picture in a process of its own: seconds, and its own memory."""
    code = (
        "from rapid_diffusion import RapidDiffusionPipeline as P;"
        f"P.from_pretrained(device={clock.device.type!r})({PROMPT!r}, seed=0);"
        "print(*[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line])"
    )
    began = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_seconds": round(wall, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "most_mebibytes": round(int(run.stdout.split()[-1]) / 1024, 1),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The tables of the report, and what each was taken on."""
    lines = ["# Speed", ""]
    for part, found in report.items():
        facts = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
        facts += "".join(f", {found[name]}" for name in ("openvino", "busy") if name in found)
        lines += [f"## {titles(part, found)}", "", f"`{found['command']}`", ""]
        lines += [f"{found['time']}; {facts}", ""]
        if "matrix_rate_gflops" in found:
            rates = (f"{rate} in {kind}" for kind, rate in found["matrix_rate_gflops"].items())
            lines += [f"Products of large matrices reach, in GFLOP/s: {', '.join(rates)}.", ""]
        own = {name: found[name] for name in found if "seconds" in name or "mebi" in name}
        lines += [*table(found.get("milliseconds", {part: own})), ""]
    return "\n".join(lines)


def titles(part: str, found: dict[str, Any]) -> str:
    if "parameters" in found:
        return f"UNet of {part}, {found['parameters'] / 1e6:.0f} M parameters: ms of a call"
    return {"picture": "A finished picture of emoji-zh: ms"}.get(part, "Cold start of emoji-zh")


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line a figure, one column a row of `rows`: there are more figures than cases."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    head = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    return head + [
        f"| {name} | " + " | ".join(str(figures.get(name, "")) for figures in rows.values()) + " |"
        for name in names
    ]


if __name__ == "__main__":
    main()
