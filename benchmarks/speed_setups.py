"""What `speed.py` compares: one UNet, of `diffusers` and ours, in several set-ups."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.artifacts.building import Part, write_parts
from rapid_diffusion.artifacts.identity import MadeFor, WeightPlace, processor_of
from rapid_diffusion.artifacts.loading import Artifacts
from rapid_diffusion.attention import route_through_door
from rapid_diffusion.denoising.compiled import compile_network
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.winograd import with_fewer_products
from rapid_diffusion.model_folder import Model
from rapid_diffusion.precision import fast_dtype

Setup = Callable[..., Tensor]

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


def built(preset: str, device: torch.device) -> tuple[Any, Denoiser, int]:
    """The network of `diffusers`, our denoiser around the same weights, words of a sentence."""
    if preset == "emoji-zh":
        pipe = RapidDiffusionPipeline.from_pretrained(preset, device=device)
        denoiser = pipe.model.denoiser
        network, length = copy.deepcopy(denoiser.network).float(), pipe.model.text_config.max_length
    else:
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        sizes = {"cross_attention_dim": TEXT_WIDTH} | SIZES[preset]
        network = cast(Any, UNet2DConditionModel)(**sizes).eval().to(device)
        denoiser, length = Denoiser(copy.deepcopy(network)), LENGTH[preset]
        denoiser.to(fast_dtype(device)).to(memory_format=torch.channels_last)
    plain_network(network)
    return network, denoiser, length


def plain_network(network: Any) -> None:
    """Attention as `diffusers` has it, in place of our door."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    network.set_attn_processor(AttnProcessor2_0())


class Setups:
    """All set-ups of one preset, each made when it is asked for by name."""

    def __init__(self, preset: str, device: torch.device) -> None:
        self.preset, self.device = preset, device
        self.network, self.denoiser, self.length = built(preset, device)

    def named(self, name: str, inputs: list[Tensor]) -> Setup:
        """One of those that `speed.py` explains."""
        return cast(Setup, getattr(self, name)(inputs))

    def diffusers_float32(self, _: list[Tensor]) -> Setup:
        return caller(self.network)

    def diffusers_bfloat16(self, _: list[Tensor]) -> Setup:
        return caller(self._laid_out(torch.bfloat16))

    def diffusers_compiled(self, _: list[Tensor]) -> Setup:
        network = self._laid_out(fast_dtype(self.device))
        network.forward = torch.compile(network.forward, dynamic=False)
        return caller(network)

    def ours_plain_attention(self, _: list[Tensor]) -> Setup:
        denoiser = shallow(self.denoiser)
        route_through_door(denoiser.network, "plain")
        return denoiser

    def ours(self, _: list[Tensor]) -> Setup:
        return shallow(self.denoiser)

    def ours_fewer_products(self, _: list[Tensor]) -> Setup:
        return cast(Setup, with_fewer_products(shallow(self.denoiser)))

    def ours_compiled(self, _: list[Tensor]) -> Setup:
        denoiser = shallow(self.denoiser)
        compile_network(denoiser)
        return denoiser

    def ours_artifacts(self, inputs: list[Tensor]) -> Setup:
        return self._ahead_of_time(inputs, "outside")

    def ours_folded(self, inputs: list[Tensor]) -> Setup:
        return self._ahead_of_time(inputs, "folded")

    def _ahead_of_time(self, inputs: list[Tensor], place: WeightPlace) -> Setup:
        """Bound to code that is compiled once, and kept in `out/speed`."""
        name = f"{self.preset}-{len(inputs[0])}-{self.device.type}-{place}"
        folder, denoiser = Path("out/speed") / name, shallow(self.denoiser)
        if not folder.exists():
            part = Part(denoiser, "forward", tuple(inputs))
            write_parts({f"unet-{len(inputs[0])}": part}, self._made(place), folder)
        told = json.loads((folder / "artifacts.json").read_text())
        parts: Any = dict.fromkeys(("text_encoder", "autoencoder", "upscaler", "pair"))
        model = cast(Model, SimpleNamespace(denoiser=denoiser, **parts))
        Artifacts(folder, told["checksum"], place, told["parts"]).bind(model)
        return denoiser

    def _laid_out(self, dtype: torch.dtype) -> Any:
        return copy.deepcopy(self.network).to(dtype).to(memory_format=torch.channels_last)

    def _made(self, place: WeightPlace) -> MadeFor:
        dtype = str(fast_dtype(self.device)).removeprefix("torch.")
        facts = ("benchmark", str(torch.__version__), self.device.type, processor_of(self.device))
        return MadeFor(*facts, dtype, place, self.preset)


class OpenVino:
    """The network of `diffusers` in OpenVINO's format, in a process of OpenVINO's own Python."""

    def __init__(self, python: Path, preset: str, rows: int, threads: int) -> None:
        script = Path(__file__).with_name("speed_openvino.py")
        command = [str(python), str(script), preset, str(rows), str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, **cast(Any, pipes))
        self.version = self._line()

    def seconds(self) -> float:
        """Processor seconds of one call."""
        assert self._process.stdin is not None
        self._process.stdin.write("call\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("OpenVINO's process ended; its error is above")
        return line


def shallow(denoiser: Denoiser) -> Denoiser:
    """A copy with the same weights in memory."""
    tensors = (*denoiser.parameters(), *denoiser.buffers())
    return copy.deepcopy(denoiser, {id(tensor): tensor for tensor in tensors})


def caller(network: Any) -> Setup:
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
    mask = mask.contiguous()
    return [noise, steps, hidden, mask, *([] if drafts is None else [drafts.to(noise)])]
