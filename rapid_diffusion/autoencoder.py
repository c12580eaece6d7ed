"""Pictures to latents and back. Scale and shift live in here and nowhere else.

`PatchAutoencoder` is ours: an orthonormal transform of square patches (principal components),
exact enough for small drawings and fitted in seconds; a small network may bring what it decodes to
a larger size. `DiffusersAutoencoder` wraps the autoencoders of `diffusers`, so that foreign model
folders load.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.artifacts.bare import BareNetwork
from rapid_diffusion.checkpoints.folder import (
    Narrow,
    load_strict,
    read_json,
    read_weights,
    write_json,
)
from rapid_diffusion.checkpoints.folder import write_weights as write_component_weights
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.images.convert import model_to_unit, unit_to_model
from rapid_diffusion.super_resolution.networks import SRVGGNetCompact, UpscalerConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class PatchConfig:
    """Patches of `patch` x `patch` pixels become `channels` numbers each.

    With `shrink` above 1 they are patches of pictures that many times smaller, and decoding ends in
    a network of `decoder_layers` convolutions of `decoder_width` channels that enlarges as much:
    outlines are told by few numbers, and how sharp drawings are the network knows.
    """

    patch: int = 4
    channels: int = 24
    shrink: int = 1
    decoder_width: int = 48
    decoder_layers: int = 8

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 1:
                raise ValueError(
                    f"{item.name} is {getattr(self, item.name)}; it must be 1 or above"
                )

    @property
    def factor(self) -> int:
        """Pixels of the picture a latent stands for, along one side."""
        return self.patch * self.shrink


class PatchAutoencoder(nn.Module):
    """latents = scale · basis · (patch - mean), and back; scale · basis has orthogonal rows.

    Where pictures are shrunk first, `network`, the small one of Real-ESRGAN, enlarges what comes
    back, clamped to [0, 1]; it is trained after `fit` (`training.enlarging.decoder_stage`).
    """

    basis: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        size = 3 * config.patch**2
        self.register_buffer("basis", torch.eye(config.channels, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(config.channels))
        self.network = _decoder_network(config) if config.shrink > 1 else None

    @property
    def channels(self) -> int:
        """C of the latents."""
        return self.config.channels

    @property
    def factor(self) -> int:
        """Pixels of the picture a latent stands for, along one side."""
        return self.config.factor

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / factor, W / factor), of unit variance overall."""
        patches = self._patches(images) - self.mean[:, None, None]
        weight = (self.scale[:, None] * self.basis)[..., None, None]
        return functional.conv2d(patches, weight)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h · factor, w · factor), about in [-1, 1], not clamped."""
        weight = (self.basis / self.scale[:, None]).T[..., None, None]
        patches = functional.conv2d(latents, weight) + self.mean[:, None, None]
        images = functional.pixel_shuffle(patches, self.config.patch)
        if self.network is None:
            return images
        return unit_to_model(self.network(model_to_unit(images)))

    @torch.no_grad()
    def fit(self, images: Tensor) -> float:
        """Take the principal components of the patches of `images` (N, 3, H, W) in [-1, 1].

        Channel i is scaled by its deviation to the power -1/2: between leaving the spectrum as it
        is (fine channels drown in noise) and whitening (noise counts as much as shape). Returns
        the peak signal-to-noise ratio of the patches' round trip in decibels.
        """
        patches = self._patches(images)
        rows = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1]).double()
        mean = rows.mean(0)
        variance, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        kept = variance.flip(0)[: self.channels]
        scale = kept.clamp(min=1e-8) ** -0.25
        scale = scale * (self.channels / (scale**2 * kept).sum()).sqrt()
        self.mean.copy_(mean)
        basis = vectors.flip(1)[:, : self.channels].T
        self.basis.copy_(basis)
        self.scale.copy_(scale)
        back = (rows - mean) @ basis.T @ basis + mean
        error = (back.clamp(-1, 1) - rows).square().mean()
        return float(10 * torch.log10(4 / error))

    def _patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3 patch², H / factor, W / factor)."""
        if self.config.shrink > 1:
            height, width = (side // self.config.shrink for side in images.shape[-2:])
            images = functional.interpolate(
                images, size=(height, width), mode="bicubic", antialias=True
            )
        return functional.pixel_unshuffle(images, self.config.patch)

    def save(self, folder: Path, narrow: Narrow = dict) -> None:
        """Write `config.json` and the weights, those of the network as `narrow` leaves them."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / "config.json", {"_class_name": "PatchAutoencoder"} | asdict(self.config)
        )
        weights = dict(self.state_dict())
        of_network = {name: weights[name] for name in weights if name.startswith("network.")}
        write_component_weights(weights | narrow(of_network), folder / WEIGHTS)


def _decoder_network(config: PatchConfig) -> SRVGGNetCompact:
    """It begins as nearest-neighbour enlargement."""
    network = SRVGGNetCompact(
        UpscalerConfig(
            "SRVGGNetCompact",
            scale=config.shrink,
            num_feat=config.decoder_width,
            num_conv=config.decoder_layers,
        )
    )
    last = network.body[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return network


class DiffusersAutoencoder(nn.Module):
    """`AutoencoderKL` or `AutoencoderTiny` with their scale and shift inside encode and decode."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.channels: int = network.config.latent_channels
        self.factor: int = 2 ** (len(network.config.block_out_channels) - 1)
        self.shift: float = getattr(network.config, "shift_factor", None) or 0.0
        self.scale: float = network.config.scaling_factor

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w); of a distribution, its mean."""
        encoded = self.network.encode(images)
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        scaled: Tensor = (latents - self.shift) * self.scale
        return scaled

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), about in [-1, 1], not clamped."""
        images: Tensor = self.network.decode(latents / self.scale + self.shift).sample
        return images

    def save(self, folder: Path, narrow: Narrow = dict) -> None:
        """Write the `diffusers` component folder."""
        del narrow  # published weights stay as they are: some lie beyond float16
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {k: v for k, v in self.network.config.items() if not k.startswith("_")}
        name = self.network.config.get("_class_name", type(self.network).__name__)
        write_json(folder / "config.json", {"_class_name": name} | sizes)
        write_component_weights(self.network.state_dict(), folder / WEIGHTS)


Autoencoder = PatchAutoencoder | DiffusersAutoencoder


def load_autoencoder(folder: Path, bare: bool = False) -> Autoencoder:
    """Read a component folder strictly; `CheckpointError` names what does not fit.

    `bare`: of an autoencoder of `diffusers` the weights only, for code compiled ahead of time.
    """
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name not in ("PatchAutoencoder", "AutoencoderKL", "AutoencoderTiny"):
        raise CheckpointError(
            folder,
            f"an autoencoder of class {name!r}; PatchAutoencoder, AutoencoderKL and "
            "AutoencoderTiny are known",
        )
    weights = read_weights(folder)
    if bare and name != "PatchAutoencoder":
        return DiffusersAutoencoder(BareNetwork(weights, config))
    try:
        autoencoder = _build(name, config)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise CheckpointError(folder / "config.json", f"gives no {name} ({error})") from error
    if isinstance(autoencoder, DiffusersAutoencoder):
        load_strict(autoencoder.network, weights, folder)
    else:
        load_strict(autoencoder, weights, folder)
    return autoencoder


def _build(name: str, config: dict[str, Any]) -> Autoencoder:
    if name == "PatchAutoencoder":
        sizes = {key: value for key, value in config.items() if not key.startswith("_")}
        return PatchAutoencoder(PatchConfig(**sizes))
    import diffusers

    return DiffusersAutoencoder(getattr(diffusers, name).from_config(config))
