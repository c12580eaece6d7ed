"""Long forms of the engine's tests, on the micro model: `python benchmarks/engine.py FORM …`.

    bits      1,000 pictures, drawn while at least two others are under way (8 rows a call), against
              the hashes that other processes gave for each alone, with one thread and with two
    cancels   at every step of 50: the row is free at the next one, the neighbour's bits stay
    sizes     5,000 random sizes at a pipeline with artifacts: drawn or refused, nothing compiled
    memory    2,000 mixed requests after 300 to get warm: how much the process grows
    enlarging what the upscaler of `emoji-zh` adds to the process at its most, by the side it gives

Only counts and bytes are told, so other work on the machine does not matter. `bits` also asks the
model `emoji-zh` what the number of threads changes.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from first_picture import machine

from rapid_diffusion import InvalidRequestError, RapidDiffusionPipeline
from rapid_diffusion.artifacts.building import write_artifacts
from rapid_diffusion.artifacts.identity import made_for
from rapid_diffusion.denoising.engine import Engine, Guidance, RowRequest, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.testing import build_micro_model
from rapid_diffusion.text.encoder import TextStates

PROMPTS = ("三维立体风格的老虎", "卡通猫", "扁平大红苹果", "一个画")
COMPANY = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("forms", nargs="+", choices=list(FORMS))
    parser.add_argument("--share", type=float, default=1.0, help="of the counts above")
    parser.add_argument("--out", type=Path, default=Path("docs/results/engine.json"))
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        model = build_micro_model(Path(scratch, "model"))
        for form in options.forms:
            facts = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
            report[form] = facts | FORMS[form](model, options.share)
            print(form, json.dumps(report[form], indent=1), flush=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")


def wishes() -> list[dict[str, Any]]:
    """Every sampler, guided and not, of other steps, sentences and seeds."""
    chance = random.Random(0)
    return [
        {"prompt": chance.choice(PROMPTS), "seed": seed, "scheduler": name}
        | {"num_inference_steps": 1 + seed % 7, "guidance_scale": guidance}
        for seed, (name, guidance) in enumerate(
            (name, guidance) for name in sorted(SAMPLERS) for guidance in (1.0, 2.5, 7.0)
        )
    ]


def drawn(pipe: RapidDiffusionPipeline, wish: dict[str, Any]) -> str:
    """The hash of a finished picture."""
    pixels = pipe(**wish, output_type="numpy").images[0]
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def alone(model: str, threads: int) -> list[str]:
    """What each wish gives with nobody else there."""
    torch.set_num_threads(threads)
    pipe = RapidDiffusionPipeline.from_pretrained(model).share_engine(8)
    return [drawn(pipe, wish) for wish in wishes()]


def elsewhere(model: str, threads: int) -> list[str]:
    """The same in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(alone, model, threads).result()


def bits(model: Path, share: float) -> dict[str, Any]:
    """Count pictures drawn in company that are not what another process drew alone."""
    torch.set_num_threads(1)
    pipe = RapidDiffusionPipeline.from_pretrained(model).share_engine(8)
    expected, chance = elsewhere(str(model), 1), random.Random(1)
    order = [chance.randrange(len(expected)) for _ in range(int(1000 * share))]
    with ThreadPoolExecutor(COMPANY) as pool:
        hashes = list(pool.map(lambda place: drawn(pipe, wishes()[place]), order))
    two = elsewhere(str(model), 2)
    large = [elsewhere("emoji-zh", threads) for threads in (1, 2, 2)]
    return {
        "rows": 8,
        "in_flight": COMPANY,
        "pictures": len(order),
        "different_from_alone_in_another_process": sum(
            found != expected[place] for place, found in zip(order, hashes, strict=True)
        ),
        "wishes": len(expected),
        "micro_different_with_two_threads": differing(two, expected),
        "emoji_zh_different_with_two_threads": differing(large[1], large[0]),
        "emoji_zh_different_in_another_process": differing(large[2], large[1]),
    }


def differing(ones: list[str], others: list[str]) -> int:
    return sum(one != other for one, other in zip(ones, others, strict=True))


def cancels(model: Path, share: float) -> dict[str, Any]:
    """A guided picture of 50 steps, canceled at each of them, beside one that goes on."""
    pipe = RapidDiffusionPipeline.from_pretrained(model)
    steps = range(0, 50, round(1 / share))
    counts = {"cancels": 0, "rows_free_at_the_next_step": 0, "neighbours_with_other_bits": 0}
    expected = run_alone(pipe, request(pipe, 1, 50))
    for step in steps:
        engine = Engine(pipe.model.denoiser, rows=4)
        neighbour, ticket = (engine.submit(request(pipe, seed, 50)) for seed in (1, 2))
        for _ in range(step):
            engine.step()
        ticket.cancel()
        follower = engine.submit(request(pipe, 3, 1))
        counts["cancels"] += 1
        counts["rows_free_at_the_next_step"] += ticket in engine.step() and follower.done
        engine.run()
        assert neighbour.latents is not None
        counts["neighbours_with_other_bits"] += not torch.equal(neighbour.latents, expected)
    return counts


def request(pipe: RapidDiffusionPipeline, seed: int, steps: int) -> RowRequest:
    """Two rows."""
    states = pipe.encode_text(pipe.tokenize([PROMPTS[0], ""]))
    own, negative = (TextStates(states.hidden[n], states.mask[n]) for n in (0, 1))
    noise, table = row_noise(seed, (pipe.model.denoiser.channels, 4, 4)), SAMPLERS["dpmpp_2m"]
    return RowRequest(noise, own, table(steps, 1.0), Guidance(3.0, negative), seed)


def run_alone(pipe: RapidDiffusionPipeline, asked: RowRequest) -> torch.Tensor:
    engine = Engine(pipe.model.denoiser, rows=4)
    ticket = engine.submit(asked)
    engine.run()
    assert ticket.latents is not None
    return ticket.latents


def sizes(model: Path, share: float) -> dict[str, Any]:
    """Random sizes, one in ten of them the model's own, at code compiled ahead of time."""
    from torch._dynamo.utils import counters

    folder, chance = model.with_name("artifacts"), random.Random(0)
    pipe = RapidDiffusionPipeline.from_pretrained(model)
    made = made_for(model, pipe.device, torch.float32)
    write_artifacts(pipe.model, made, folder, [2])
    compiled = RapidDiffusionPipeline.from_pretrained(model, artifacts=folder).share_engine(2)
    counters.clear()
    asked, counts = int(5000 * share), {"drawn": 0, "refused": 0}
    for number in range(asked):
        height, width = chance.randint(1, 256), chance.randint(1, 256)
        if number % 10 == 0:
            height, width = compiled.sizes[0]
        try:
            compiled(PROMPTS[0], height=height, width=width, seed=number, num_inference_steps=1)
            counts["drawn"] += 1
        except InvalidRequestError:
            counts["refused"] += 1
    return {"sizes": asked, **counts, "compiled": sum(counters["frames"].values())}


def memory(model: Path, share: float) -> dict[str, Any]:
    """Resident MiB while several threads ask for everything; the slope by least squares."""
    pipe, chance = RapidDiffusionPipeline.from_pretrained(model).share_engine(8), random.Random(2)

    def ask(number: int) -> float:
        wish = chance.choice(wishes()) | {"seed": number}
        pipe(**wish, num_images_per_prompt=1 + number % 3)
        return resident()

    with ThreadPoolExecutor(COMPANY) as pool:
        list(pool.map(ask, range(int(300 * share))))
        sizes_by_request = list(pool.map(ask, range(int(2000 * share))))
    slope = float(np.polyfit(np.arange(len(sizes_by_request)), sizes_by_request, 1)[0])
    return {
        "requests": len(sizes_by_request),
        "mebibytes_first_and_last": [sizes_by_request[0], sizes_by_request[-1]],
        "mebibytes_per_1000_requests": round(1000 * slope, 3),
    }


def enlarging(_model: Path, share: float) -> dict[str, Any]:
    """Mebibytes beyond those before, without the pictures themselves."""
    pipe = RapidDiffusionPipeline.from_pretrained("emoji-zh")
    told = {}
    for side in (64, 256, int(512 * share)):
        image = torch.rand(1, 3, side, side)
        Path("/proc/self/clear_refs").write_text("5")  # the most begins anew
        before = resident()
        large = pipe.enlarge(image, 4)
        status = Path("/proc/self/status").read_text()
        most = int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) / 1024
        told[f"{4 * side} px"] = round(most - before - large.nbytes / 2**20, 1)
        del large
    return {"mebibytes": told}


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 2)


FORMS: dict[str, Callable[[Path, float], dict[str, Any]]] = {
    "bits": bits,
    "cancels": cancels,
    "sizes": sizes,
    "memory": memory,
    "enlarging": enlarging,
}

if __name__ == "__main__":
    main()
