"""The UNet of `diffusers` behind one signature: (rows, timesteps, hidden, mask) -> output."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.checkpoints.folder import load_strict, read_json, read_weights, write_json
from rapid_diffusion.checkpoints.folder import write_weights as write_component_weights
from rapid_diffusion.config import DenoiserConfig
from rapid_diffusion.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASS_NAME = "UNet2DConditionModel"


class Denoiser(nn.Module):
    """`UNet2DConditionModel`; where its config asks for it, the CLS state also joins the time.

    Cross-attention tells every place what the sentence says; the CLS state, added to the time
    embedding, tells every layer at once what the whole picture is. It learns sooner.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.channels: int = network.config.in_channels
        self.sample_size: int = network.config.sample_size
        self.text_width: int = network.config.cross_attention_dim
        self.takes_sentence: bool = network.config.class_embed_type == "projection"

    def forward(self, rows: Tensor, timesteps: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """rows (B, C, h, w), timesteps (B,), hidden (B, L, D), mask (B, L) bool -> (B, C, h, w)."""
        dtype = self.network.dtype
        sentence = hidden[:, 0].to(dtype) if self.takes_sentence else None
        output: Tensor = self.network(
            rows.to(dtype),
            timesteps,
            hidden.to(dtype),
            class_labels=sentence,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return output.to(rows.dtype)

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the `diffusers` component folder, with `weights` as they are to be stored."""
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {k: v for k, v in self.network.config.items() if not k.startswith("_")}
        write_json(folder / "config.json", {"_class_name": CLASS_NAME} | sizes)
        write_component_weights(weights or self.network.state_dict(), folder / WEIGHTS)


def build_denoiser(config: DenoiserConfig) -> Denoiser:
    """A UNet with random weights, of the sizes given, its last convolution at zero."""
    from diffusers import UNet2DConditionModel

    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attends]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attends)]
    network: Any = UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.channels,
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
    return Denoiser(network)


def load_denoiser(folder: Path) -> Denoiser:
    """Read a component folder strictly; `CheckpointError` names what does not fit."""
    from diffusers import UNet2DConditionModel

    config = read_json(folder / "config.json")
    if config.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise CheckpointError(folder, f"a {config['_class_name']}; {CLASS_NAME} is wanted")
    if "block_out_channels" not in config:  # without sizes, diffusers would build its largest
        raise CheckpointError(folder / "config.json", f"gives no sizes of a {CLASS_NAME}")
    weights = read_weights(folder)
    try:
        with torch.device("meta"):
            network = UNet2DConditionModel.from_config(config)
    except (ValueError, TypeError, RuntimeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(folder / "config.json", f"gives no UNet ({error})") from error
    network = network.to_empty(device="cpu")
    load_strict(network, weights, folder)
    return Denoiser(network)
