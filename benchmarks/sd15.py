"""Whole pictures with networks of Stable Diffusion 1.5's size: `python benchmarks/sd15.py`.

Random weights, guidance, one picture: the engine's steps with code compiled ahead of time (that of
`speed.py`, or compiled now; on CUDA a captured graph) and the full decoder, from noise to pixels.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from first_picture import machine
from speed_setups import Setups, inputs_of
from torch import Tensor

from rapid_diffusion.artifacts.graphs import captured
from rapid_diffusion.denoising.engine import Engine, Guidance, denoise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.precision import checked_device, fast_dtype
from rapid_diffusion.text.encoder import TextStates

#: Milliseconds wanted on a GPU, by steps.
BARS = {20: 110, 4: 20}
WIDTHS = (128, 256, 512, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="sd15", choices=["sd15", "compact", "emoji-zh"])
    parser.add_argument("--device", default=None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("docs/results/sd15.json"))
    options = parser.parse_args()
    device = checked_device(options.device)
    draw = drawer(options.preset, device)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine() | {"device": str(device)},
        "bars_of_sd15_on_a_gpu": {str(steps): bar for steps, bar in BARS.items()},
        "milliseconds": {str(steps): timed(draw, steps, device, options.rounds) for steps in BARS},
    }
    if device.type == "cuda":
        report["machine"]["device"] = torch.cuda.get_device_name(device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def drawer(preset: str, device: torch.device) -> Callable[[int], Tensor]:
    """From the number of steps to pixels (1, 3, H, W)."""
    setups = Setups(preset, device)
    inputs = inputs_of(setups.denoiser, 2, setups.length, device)
    engine = Engine(setups.named("ours_artifacts", inputs), rows=2)
    noise, hidden, mask = inputs[0][:1], inputs[2], inputs[3]
    states, empty = (TextStates(hidden[n : n + 1], mask[n : n + 1]) for n in (0, 1))
    decode = decoder(noise, device)

    @torch.inference_mode()
    def draw(steps: int) -> Tensor:
        table = SAMPLERS["dpmpp_2m"](steps, 1.0)
        latents = denoise(engine, noise, states, table, Guidance(5.0, empty), seeds=[0])
        return decode([latents.to(fast_dtype(device))])[0]

    return draw


def decoder(noise: Tensor, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """Stable Diffusion's, of random weights."""
    from diffusers import AutoencoderKL

    sizes = {"block_out_channels": WIDTHS, "latent_channels": noise.shape[1], "layers_per_block": 2}
    blocks = {
        f"{way}_block_types": (f"{way.capitalize()}{kind}Block2D",) * 4
        for way, kind in (("down", "Encoder"), ("up", "Decoder"))
    }
    autoencoder: Any = cast(Any, AutoencoderKL)(**sizes, **blocks).eval()
    autoencoder.to(device, fast_dtype(device)).to(memory_format=torch.channels_last)

    def decode(latents: list[Tensor]) -> Sequence[Tensor]:
        return [autoencoder.decode(latents[0], return_dict=False)[0]]

    example = noise.to(fast_dtype(device))
    return captured(decode, [example]) if device.type == "cuda" else torch.inference_mode()(decode)


def timed(
    draw: Callable[[int], Tensor], steps: int, device: torch.device, rounds: int
) -> dict[str, float]:
    """Median and best milliseconds, by the clock, after two to get warm."""
    spent = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        pixels = draw(steps)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        assert pixels.shape[:2] == (1, 3)
        spent.append(1000 * (time.perf_counter() - began))
    warm = spent[2:]
    return {"median": round(statistics.median(warm), 2), "best": round(min(warm), 2)}


if __name__ == "__main__":
    main()
