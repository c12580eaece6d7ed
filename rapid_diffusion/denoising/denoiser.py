"""The UNet of `diffusers` behind one signature: (rows, timesteps, hidden, mask) -> output."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.artifacts.bare import BareNetwork
from rapid_diffusion.attention import route_through_door
from rapid_diffusion.checkpoints.folder import (
    Narrow,
    load_strict,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from rapid_diffusion.config import DenoiserConfig, DraftConfig
from rapid_diffusion.denoising.draft import SentenceDraft
from rapid_diffusion.denoising.schedules import TIMESTEPS
from rapid_diffusion.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASS_NAME = "UNet2DConditionModel"


class Denoiser(nn.Module):
    """`UNet2DConditionModel`; where its config asks for it, the CLS state also joins the time.

    Cross-attention tells every place what the sentence says; the CLS state, added to the time
    embedding, tells every layer at once what the whole picture is; the draft, if there is one,
    tells where. All three learn sooner together.
    """

    def __init__(self, network: Any, draft: SentenceDraft | None = None) -> None:
        super().__init__()
        self.network = network
        route_through_door(network)
        self.draft = draft
        self.channels: int = network.config.out_channels
        self.sample_size: int = network.config.sample_size
        self.text_width: int = network.config.cross_attention_dim
        self.takes_sentence: bool = network.config.class_embed_type == "projection"

    def drafts(self, hidden: Tensor) -> Tensor | None:
        """The drafts (B, `draft.channels`, h, w) of sentences (B, L, D), the same at every step.

        None without a draft.
        """
        return None if self.draft is None else self.draft(hidden[:, 0].to(self.network.dtype))

    def forward(
        self,
        rows: Tensor,
        timesteps: Tensor,
        hidden: Tensor,
        mask: Tensor,
        drafts: Tensor | None = None,
    ) -> Tensor:
        """rows (B, C, h, w), timesteps (B,), hidden (B, L, D), mask (B, L) bool -> (B, C, h, w).

        `drafts` are those of `hidden`; they are made here where they are not given.
        """
        dtype = self.network.dtype
        inputs, states = rows.to(dtype), hidden.to(dtype)
        drafts = self.drafts(hidden) if drafts is None else drafts
        if drafts is not None:
            inputs = torch.cat([inputs, drafts.to(dtype)], 1)
        output: Tensor = self.network(
            inputs,
            timesteps,
            states,
            class_labels=states[:, 0] if self.takes_sentence else None,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        if drafts is not None and self.draft is not None and self.draft.config.spread:
            around, times = self.draft.split(drafts), timesteps / TIMESTEPS
            output = _velocity_around(*around, rows.float(), times, output.float())
        return output.to(rows.dtype)

    def rebuilt(self) -> "Denoiser":
        """A copy that calculates with its own weights, whatever this one was compiled to."""
        network = _build_network(self.network.config, Path("unet"))
        load_strict(network, self.network.state_dict(), "unet")
        weight = next(self.network.parameters())
        return Denoiser(network.eval(), copy.deepcopy(self.draft)).to(weight.device, weight.dtype)

    def save(self, folder: Path, narrow: Narrow = dict) -> None:
        """Write the `diffusers` component folder, and the draft in `draft/` beside it.

        `narrow` turns a state dict into what is to be stored.
        """
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {k: v for k, v in self.network.config.items() if not k.startswith("_")}
        write_json(folder / "config.json", {"_class_name": CLASS_NAME} | sizes)
        write_weights(narrow(self.network.state_dict()), folder / WEIGHTS)
        if self.draft is not None:
            beside = folder.parent / "draft"
            beside.mkdir(exist_ok=True)
            write_json(beside / "config.json", asdict(self.draft.config))
            write_weights(narrow(self.draft.state_dict()), beside / "model.safetensors")


def _velocity_around(
    drafts: Tensor, log_spread: Tensor, rows: Tensor, times: Tensor, output: Tensor
) -> Tensor:
    """The velocity noise - picture (B, C, h, w) in `rows` at `times` (B,), 1 = noise.

    Were pictures spread around their drafts d as independent normal numbers of deviation s, then
    of x = (1 - t) picture + t noise the best guess would be

        (x - (1 - t) d) (t - (1 - t) s²) / v - d,    v = (1 - t)² s² + t²,

    wrong by s / sqrt(v) on average. `output`, in units of that, says what is known beyond it: the
    network need not carry noise through itself, of which fine latents are full. It is what Karras
    et al., 2022 (https://arxiv.org/abs/2206.00364, section 5) do around zero.
    """
    at = times.float()[:, None, None, None]
    variance = (2 * log_spread).exp()
    of_rows = (1 - at).square() * variance + at.square()
    guess = (rows - (1 - at) * drafts) * (at - (1 - at) * variance) / of_rows - drafts
    return guess + (variance / of_rows).sqrt() * output


def build_denoiser(config: DenoiserConfig) -> Denoiser:
    """A UNet with random weights, of the sizes given, its last convolution at zero."""
    from diffusers import UNet2DConditionModel

    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attends]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attends)]
    drafted = config.channels + config.draft_spread if config.draft else 0
    network: Any = UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.channels + drafted,
        out_channels=config.channels,
        block_out_channels=config.widths,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        layers_per_block=config.layers,
        cross_attention_dim=config.text_width,
        # diffusers takes the number of heads under this name
        attention_head_dim=tuple(max(1, width // config.head_width) for width in config.widths),
        norm_num_groups=config.norm_groups,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=config.text_width,
    )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    if not config.draft:
        return Denoiser(network)
    sizes = config.channels, config.sample_size, config.text_width, config.draft
    draft = DraftConfig(
        *sizes,
        rank=config.draft_rank,
        cosines=config.draft_cosines,
        spread=config.draft_spread,
    )
    return Denoiser(network, SentenceDraft(draft))


def load_denoiser(folder: Path, bare: bool = False, below: Path | None = None) -> Denoiser:
    """Read a component folder strictly; `CheckpointError` names what does not fit.

    `bare`: the weights only, for code that was compiled ahead of time. `below`: the component
    folder of the base, which has the draft and the weights that are not in `folder`.
    """
    config = read_json(folder / "config.json")
    if config.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise CheckpointError(folder, f"a {config['_class_name']}; {CLASS_NAME} is wanted")
    if "block_out_channels" not in config:  # without sizes, diffusers would build its largest
        raise CheckpointError(folder / "config.json", f"gives no sizes of a {CLASS_NAME}")
    weights = ({} if below is None else read_weights(below)) | read_weights(folder)
    network: Any
    if bare:
        network = _bare_network(weights, config, folder / "config.json")
    else:
        network = _build_network(config, folder)
        load_strict(network, weights, folder)
    draft = _load_draft((below or folder).parent / "draft")
    drafted = draft.channels if draft is not None else 0
    if network.config.in_channels != network.config.out_channels + drafted:
        raise CheckpointError(
            folder,
            f"takes {network.config.in_channels} channels and gives "
            f"{network.config.out_channels}, but the draft beside it has {drafted}",
        )
    return Denoiser(network, draft)


def _bare_network(weights: dict[str, Tensor], config: Mapping[str, Any], path: Path) -> BareNetwork:
    """The weights only, with the sizes that a `Denoiser` looks at."""
    wanted = ("in_channels", "out_channels", "sample_size", "cross_attention_dim")
    if missing := [name for name in wanted if name not in config]:
        raise CheckpointError(path, f"gives no {', '.join(missing)}; open it without artifacts")
    return BareNetwork(weights, {"class_embed_type": None} | dict(config))


def _build_network(config: Mapping[str, Any], folder: Path) -> Any:
    """A UNet of these sizes, its weights not yet set."""
    from diffusers import UNet2DConditionModel

    try:
        with torch.device("meta"):
            network: Any = UNet2DConditionModel.from_config(config)
    except (ValueError, TypeError, RuntimeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(folder / "config.json", f"gives no UNet ({error})") from error
    return network.to_empty(device="cpu")


def _load_draft(folder: Path) -> SentenceDraft | None:
    if not folder.is_dir():
        return None
    try:
        draft = SentenceDraft(DraftConfig(**read_json(folder / "config.json")))
    except TypeError as error:
        raise CheckpointError(folder / "config.json", f"gives no draft ({error})") from error
    load_strict(draft, read_weights(folder), folder)
    return draft
