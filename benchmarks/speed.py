"""How fast the UNet and a finished picture are, against `diffusers`: `python benchmarks/speed.py`.

A UNet step is one guided pair (two rows) or more, of the same weights in every set-up, in turn:

    diffusers_float32      the network as `diffusers` builds it, eager
    diffusers_bfloat16     the same in bfloat16 and channels-last
    diffusers_compiled     the same in the device's fast format through `torch.compile`
    ours                   our denoiser as a pipeline has it: fast format, channels-last, one door
    ours_compiled          compiled with its weights laid out (`compile_network`)

Presets: the model `emoji-zh`; `compact` (32x32 latents) and `sd15` (64x64), both with random
weights, since speed does not depend on them. On a CPU time is processor time of the process, so
that other programs count little; a set-up that the device would only emulate (bfloat16) is left
out, and so is `sd15` unless it is named.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from first_picture import PROMPT, machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.denoising.compiled import compile_network
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.images.png import encode_png
from rapid_diffusion.precision import checked_device, fast_dtype

#: Sizes of the UNet, in the words of `diffusers`.
SIZES: dict[str, dict[str, Any]] = {
    "compact": {"sample_size": 32, "block_out_channels": (320, 512, 832), "attention_head_dim": 8}
    | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "sd15": {"sample_size": 64, "attention_head_dim": 8},
}
LENGTH = {"compact": 32, "sd15": 77}
TEXT_WIDTH = 768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=None, help="emoji-zh compact sd15")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8], help="rows of a call")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 20])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 4], help="drawn at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--no-compile", action="store_true", help="eager set-ups only")
    parser.add_argument("--out", type=Path, default=Path("docs/results/speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = Clock(checked_device(options.device))
    cuda = clock.device.type == "cuda"
    presets = options.presets or ["emoji-zh", "compact", *(["sd15"] if cuda else [])]
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine() | {"device": clock.name},
        "time": "wall clock" if cuda else "processor time",
        "matrix_rate_gflops": matrix_rate(clock),
        "unet_step": {},
    }
    for preset in presets:
        found = unet_step(preset, clock, options, report["matrix_rate_gflops"])
        report["unet_step"][preset] = found
        print(preset, json.dumps(found, indent=1), flush=True)
    report["picture"] = picture(clock, options)
    report["cold_start"] = cold_start(clock)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown(report))


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

    def seconds(self, works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        """The median of each, taken in turn after two turns to warm up."""
        spent: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(rounds + 2):
            for name, work in works.items():
                began = self.now()
                work()
                if turn >= 2:
                    spent[name].append(self.now() - began)
        return {name: statistics.median(each) for name, each in spent.items()}


def matrix_rate(clock: Clock, side: int = 2048) -> dict[str, float]:
    """What products of square matrices reach, in GFLOP/s, by number format."""
    rates = {}
    for dtype in {torch.float32, fast_dtype(clock.device)}:
        one = torch.randn(side, side, device=clock.device).to(dtype)
        best = min(clock.seconds({"": lambda one=one: one @ one}, 1)[""] for _ in range(5))
        rates[str(dtype).removeprefix("torch.")] = round(2 * side**3 / best / 1e9, 1)
    return rates


def built(preset: str, clock: Clock) -> tuple[Any, Denoiser, int]:
    """The network of `diffusers`, our denoiser around the same weights, words of a sentence."""
    if preset == "emoji-zh":
        pipe = RapidDiffusionPipeline.from_pretrained(preset, device=clock.device)
        denoiser = pipe.model.denoiser
        return copy.deepcopy(denoiser.network).float(), denoiser, pipe.model.text_config.max_length
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    sizes = {"cross_attention_dim": TEXT_WIDTH} | SIZES[preset]
    network: Any = UNet2DConditionModel(**sizes).eval().to(clock.device)
    ours = Denoiser(copy.deepcopy(network)).to(fast_dtype(clock.device))
    return network, ours.to(memory_format=torch.channels_last), LENGTH[preset]


def unet_step(
    preset: str, clock: Clock, options: argparse.Namespace, rates: dict[str, float]
) -> dict[str, Any]:
    """Milliseconds of a call by set-up and rows."""
    network, denoiser, length = built(preset, clock)
    plain_network(network)
    setups = of_setups(network, denoiser, clock, compiled=not options.no_compile)
    report: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "milliseconds": {},
    }
    for rows in options.batches:
        inputs = inputs_of(denoiser, rows, length, clock.device)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            setups["diffusers_float32"](*inputs)
        flops = counter.get_total_flops()
        works = {name: called(setup, inputs) for name, setup in setups.items()}
        spent = clock.seconds(works, options.rounds)
        fastest = min((name for name in spent if name.startswith("ours")), key=spent.__getitem__)
        peers = [spent[name] for name in spent if not name.startswith("ours")]
        fast = str(fast_dtype(clock.device)).removeprefix("torch.")
        report["milliseconds"][f"{rows} rows"] = {
            **{name: round(1000 * seconds, 2) for name, seconds in spent.items()},
            "gflop": round(flops / 1e9, 2),
            "share_of_matrix_rate": round(flops / spent[fastest] / 1e9 / rates[fast], 3),
            "times_faster_than_best_peer": round(min(peers) / spent[fastest], 2),
        }
    return report


def plain_network(network: Any) -> None:
    """Attention as `diffusers` has it, in place of our door."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    network.set_attn_processor(AttnProcessor2_0())


def of_setups(
    network: Any, denoiser: Denoiser, clock: Clock, *, compiled: bool
) -> dict[str, Callable[..., Tensor]]:
    """What is compared, by name."""
    dtype = fast_dtype(clock.device)
    setups: dict[str, Callable[..., Tensor]] = {"diffusers_float32": caller(network)}
    fast = copy.deepcopy(network).to(dtype).to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        setups[f"diffusers_{str(dtype).removeprefix('torch.')}"] = caller(fast)
    setups["ours"] = denoiser
    if compiled:
        traced: Any = copy.deepcopy(fast)
        traced.forward = torch.compile(traced.forward, dynamic=False)
        setups["diffusers_compiled"] = caller(traced)
        laid_out = copy.deepcopy(denoiser)
        compile_network(laid_out)
        setups["ours_compiled"] = laid_out
    return setups


def caller(network: Any) -> Callable[..., Tensor]:
    """A network of `diffusers` called as our denoiser is."""
    dtype = network.dtype
    takes_sentence = network.config.class_embed_type == "projection"

    def call(rows: Tensor, steps: Tensor, hidden: Tensor, mask: Tensor, *drafts: Tensor) -> Tensor:
        states = hidden.to(dtype)
        labels = states[:, 0] if takes_sentence else None
        inputs = torch.cat([rows, *drafts], 1).to(dtype)
        named = {"class_labels": labels, "encoder_attention_mask": mask, "return_dict": False}
        output: Tensor = network(inputs, steps, states, **named)[0]
        return output

    return call


def inputs_of(denoiser: Denoiser, rows: int, length: int, device: torch.device) -> list[Tensor]:
    side = denoiser.sample_size
    noise = torch.randn(rows, denoiser.channels, side, side, device=device)
    hidden = torch.randn(rows, length, denoiser.text_width, device=device)
    mask = torch.arange(length, device=device).expand(rows, -1) < 12
    with torch.inference_mode():
        drafts = denoiser.drafts(hidden)
    steps = torch.full((rows,), 500.0, device=device)
    return [noise, steps, hidden, mask, *([] if drafts is None else [drafts.to(noise)])]


def called(setup: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], Tensor]:
    return torch.inference_mode()(lambda: setup(*inputs))


def picture(clock: Clock, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of finished pictures of `emoji-zh` (enlarged, PNG), by steps and number."""
    pipes = {"eager float32": RapidDiffusionPipeline.from_pretrained(dtype=torch.float32)}
    pipes["ours"] = RapidDiffusionPipeline.from_pretrained(device=clock.device)
    if not options.no_compile:
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
    """The tables of the report, and what they were taken on."""
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = ["# Speed", "", f"`{report['command']}`", "", f"{report['time']}; {facts}", ""]
    for preset, found in report["unet_step"].items():
        title = f"UNet of {preset}, {found['parameters'] / 1e6:.0f} M parameters"
        lines += [f"## {title}: milliseconds of a call", "", *table(found["milliseconds"]), ""]
    lines += ["## A finished picture of emoji-zh: milliseconds", "", *table(report["picture"]), ""]
    lines += ["## Cold start", "", *table({"emoji-zh": report["cold_start"]}), ""]
    return "\n".join(lines)


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    names = list(next(iter(rows.values())))
    head = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    return head + [
        f"| {name} | " + " | ".join(map(str, v.values())) + " |" for name, v in rows.items()
    ]


if __name__ == "__main__":
    main()
