"""From the start of a process to its first picture: eager, and with compiled artifacts.

    rapid-diffusion compile emoji-zh --out out/artifacts
    python benchmarks/cold_start.py --artifacts outside=out/artifacts --out cold-start.json

Each round starts one process a way, in turn; with artifacts it must import neither `diffusers` nor
`transformers`, and no compiler. Then one process a way draws warm pictures and calls the UNet.
Processor seconds stand beside the clock's, for a machine that does other work too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT = "三维立体风格的老虎"
EAGER = "eager"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--artifacts", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=0, help="of the UNet, warm")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(child(options.model, options.child, options.calls)))
        return
    from first_picture import machine  # not above: a child's imports are what is measured

    ways = {EAGER: ""} | dict(word.split("=", 1) for word in options.artifacts)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, folder in ways.items():
            runs[way].append(started(options.model, folder, 0))
            print(way, runs[way][-1], file=sys.stderr, flush=True)
    warm = {w: started(options.model, folder, options.calls or 50) for w, folder in ways.items()}
    report = {
        "command": f"python benchmarks/cold_start.py {' '.join(sys.argv[1:])}",
        "machine": machine() | {"load_average": [round(value, 1) for value in os.getloadavg()]},
        "prompt": PROMPT,
        "rounds": options.rounds,
        "cold": {way: medians(found) for way, found in runs.items()},
        "warm": {way: found["warm"] for way, found in warm.items()},
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


def started(model: str, folder: str, calls: int) -> dict[str, Any]:
    """One process, from before it starts until it has said that it is done."""
    command = [sys.executable, __file__, "--model", model, "--child", folder]
    command += ["--calls", str(calls)]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return {"first_picture_seconds": round(told.pop("at") - began, 3), **told}


def child(model: str, folder: str, calls: int) -> dict[str, Any]:
    """What one process finds out about itself."""
    import torch

    from rapid_diffusion import RapidDiffusionPipeline
    from rapid_diffusion.artifacts.loading import Artifacts
    from rapid_diffusion.images.png import encode_png

    imported = time.process_time()
    binding: list[float] = []
    bind = Artifacts.bind

    def timed_bind(self: Artifacts, of: Any) -> None:
        began = time.perf_counter()
        bind(self, of)
        binding.append(time.perf_counter() - began)

    Artifacts.bind = timed_bind  # type: ignore[method-assign]
    pipe = RapidDiffusionPipeline.from_pretrained(model, device="cpu", artifacts=folder or None)
    loaded = time.process_time()
    encode_png(pipe(PROMPT, seed=0, output_type="numpy").images[0])
    told = {
        "at": time.time(),
        "processor_seconds": round(time.process_time(), 3),
        "imports_processor_seconds": round(imported, 3),
        "opening_processor_seconds": round(loaded - imported, 3),
        "first_call_processor_seconds": round(time.process_time() - loaded, 3),
        "artifact_load_seconds": round(sum(binding), 4) if folder else None,
        "threads": torch.get_num_threads(),
    }
    # Without `torch._dynamo` nothing can have been compiled, or be compiled later.
    foreign = sorted({"diffusers", "transformers", "torch._dynamo"} & set(sys.modules))
    if folder and foreign:
        raise SystemExit(f"with artifacts, {foreign} were imported")
    return told | ({"warm": warm_figures(pipe, calls)} if calls else {})


def warm_figures(pipe: Any, calls: int) -> dict[str, Any]:
    """Processor milliseconds of a call of the UNet with two rows, and seconds of a picture."""
    import torch

    model = pipe.model
    side, channels, text = model.denoiser.sample_size, model.denoiser.channels, model.text_config
    inputs = [torch.randn(2, channels, side, side), torch.full((2,), 500.0)]
    inputs += [torch.randn(2, text.max_length, text.width)]
    inputs += [torch.ones(2, text.max_length, dtype=torch.bool)]
    drafts = model.denoiser.drafts(inputs[2])
    inputs += [] if drafts is None else [drafts]
    with torch.inference_mode():
        call = [measured(lambda: model.denoiser(*inputs)) for _ in range(calls)]
    picture = [measured(lambda: pipe(PROMPT, seed=1, output_type="numpy")) for _ in range(5)]
    return {
        "unet_call_processor_ms": {
            "best": round(1e3 * min(call), 2),
            "median": round(1e3 * statistics.median(call), 2),
        },
        "picture_processor_seconds": round(min(picture), 3),
    }


def measured(work: Any) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure, and the best and worst time to the first picture."""
    names = [name for name, value in runs[0].items() if isinstance(value, int | float)]
    first = [run["first_picture_seconds"] for run in runs]
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in names} | {
        "first_picture_best_and_worst": [min(first), max(first)]
    }


if __name__ == "__main__":
    main()
