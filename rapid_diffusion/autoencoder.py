"""Pictures to latents and back. Scale and shift live in here and nowhere else.

`PatchAutoencoder` is ours: an orthonormal transform of square patches (principal components),
exact enough for small drawings and fitted in seconds. `DiffusersAutoencoder` wraps the
autoencoders of `diffusers`, so that foreign model folders load.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.artifacts.bare import BareNetwork
from rapid_diffusion.checkpoints.folder import load_strict, read_json, read_weights, write_json
from rapid_diffusion.checkpoints.folder import write_weights as write_component_weights
from rapid_diffusion.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class PatchConfig:
    """Patches of `patch` x `patch` pixels become `channels` numbers each."""

    patch: int = 4
    channels: int = 24


class PatchAutoencoder(nn.Module):
    """latents = scale · basis · (patch - mean), and back; scale · basis has orthogonal rows."""

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

    @property
    def channels(self) -> int:
        """C of the latents."""
        return self.config.channels

    @property
    def factor(self) -> int:
        """Pixels of the picture a latent stands for, along one side."""
        return self.config.patch

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / patch, W / patch), of unit variance overall."""
        patches = functional.pixel_unshuffle(images, self.factor) - self.mean[:, None, None]
        weight = (self.scale[:, None] * self.basis)[..., None, None]
        return functional.conv2d(patches, weight)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h · patch, w · patch), about in [-1, 1], not clamped."""
        weight = (self.basis / self.scale[:, None]).T[..., None, None]
        patches = functional.conv2d(latents, weight) + self.mean[:, None, None]
        return functional.pixel_shuffle(patches, self.factor)

    @torch.no_grad()
    def fit(self, images: Tensor) -> float:
        """Take the principal components of the patches of `images` (N, 3, H, W) in [-1, 1].

        Channel i is scaled by its deviation to the power -1/2: between leaving the spectrum as it
        is (fine channels drown in noise) and whitening (noise counts as much as shape). Returns
        the peak signal-to-noise ratio of the round trip in decibels.
        """
        patches = functional.pixel_unshuffle(images, self.factor)
        rows = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1]).double()
        mean = rows.mean(0)
        variance, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        kept = variance.flip(0)[: self.channels]
        scale = kept.clamp(min=1e-8) ** -0.25
        scale = scale * (self.channels / (scale**2 * kept).sum()).sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(vectors.flip(1)[:, : self.channels].T)
        self.scale.copy_(scale)
        error = (self.decode(self.encode(images)).clamp(-1, 1) - images).square().mean()
        return float(10 * torch.log10(4 / error))

    def save(self, folder: Path) -> None:
        """Write `config.json` and the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / "config.json", {"_class_name": "PatchAutoencoder"} | asdict(self.config)
        )
        write_component_weights(self.state_dict(), folder / WEIGHTS)


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

    def save(self, folder: Path) -> None:
        """Write the `diffusers` component folder."""
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
