"""The contrastive pair of CLIP and Chinese CLIP: text tower and image tower, in one space."""

import math
from dataclasses import asdict, fields
from pathlib import Path

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
    write_weights,
)
from rapid_diffusion.config import ImageTowerConfig
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.text.encoder import KnowledgeTextEncoder


class ContrastivePair(nn.Module):
    """Two towers with a projection each; features are unit vectors."""

    def __init__(
        self,
        text: KnowledgeTextEncoder,
        config: ImageTowerConfig,
        image: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.text = text
        self.image = _build_image_tower(config) if image is None else image
        self.text_projection = nn.Linear(text.width, config.embedding, bias=False)
        self.image_projection = nn.Linear(config.widths[-1], config.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image_features(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> (B, F)."""
        side = self.config.side
        if side and images.shape[-1] > side:
            images = functional.interpolate(images, size=(side, side), mode="area")
        pooled = self.image(images).pooler_output.flatten(1)
        return functional.normalize(self.image_projection(pooled), dim=-1)

    def text_features(self, hidden: Tensor) -> Tensor:
        """hidden states (B, L, D) -> (B, F), from the CLS token as in Chinese CLIP."""
        return functional.normalize(self.text_projection(hidden[:, 0]), dim=-1)

    def loss(self, images: Tensor, hidden: Tensor, same: Tensor) -> Tensor:
        """Symmetric cross entropy over a batch.

        `same` (B, B) bool marks texts that describe picture i as well as its own does, such as
        two captions of one picture: they count neither for nor against.
        """
        return self.compare(self.image_features(images), self.text_features(hidden), same)

    def compare(self, images: Tensor, texts: Tensor, same: Tensor) -> Tensor:
        """The loss of features (B, F) that are already there."""
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        logits = scale * images @ texts.T
        diagonal = torch.eye(len(images), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~diagonal, -torch.inf)
        target = torch.arange(len(images), device=logits.device)
        return 0.5 * (
            functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        )


def write_pair(
    pair: ContrastivePair,
    folder: Path,
    stored: Narrow,
) -> None:
    """Write the image tower and both projections; the text tower has a folder of its own."""
    folder.mkdir()
    write_json(folder / "config.json", asdict(pair.config))
    weights = pair.state_dict()
    head = {name: value for name, value in weights.items() if not name.startswith("text.")}
    write_weights(stored(head), folder / "model.safetensors")


def read_pair(
    folder: Path, text: KnowledgeTextEncoder, bare: bool = False
) -> ContrastivePair | None:
    """The pair around a text tower that is there; None where a model was saved without its own.

    `bare`: the image tower's weights only, for code that was compiled ahead of time.

    Raises `CheckpointError` naming the file that is damaged or does not fit.
    """
    if not folder.is_dir():
        return None
    path, weights = folder / "config.json", read_weights(folder)
    image = BareNetwork(_below("image", weights)) if bare else None
    try:
        with torch.random.fork_rng(devices=[]):
            pair = ContrastivePair(text, _read_config(path), image)
    except (ValueError, RuntimeError, TypeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(path, f"gives no image tower ({error})") from error
    of_text = {f"text.{name}": value for name, value in text.state_dict().items()}
    load_strict(pair, weights | of_text, folder)
    return pair.eval()


def _below(part: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    own = f"{part}."
    return {name[len(own) :]: value for name, value in weights.items() if name.startswith(own)}


def _read_config(path: Path) -> ImageTowerConfig:
    values = {"side": 0} | read_json(path)  # older folders know no side
    known = {item.name for item in fields(ImageTowerConfig)}
    if set(values) != known:
        raise CheckpointError(path, f"has {sorted(values)}; {sorted(known)} are wanted")
    widths, depths, embedding = values["widths"], values["depths"], values["embedding"]
    if not isinstance(widths, list) or not isinstance(depths, list):
        raise CheckpointError(path, f"widths {widths!r} and depths {depths!r}; lists are wanted")
    if not all(type(number) is int and number > 0 for number in (*widths, *depths, embedding)):
        raise CheckpointError(path, f"{values}; whole numbers above 0 are wanted")
    if type(values["side"]) is not int or values["side"] < 0:
        raise CheckpointError(path, f"side {values['side']!r}; a whole number from 0 on is wanted")
    return ImageTowerConfig(tuple(widths), tuple(depths), embedding, values["side"])


def _build_image_tower(config: ImageTowerConfig) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(
        ResNetConfig(
            embedding_size=config.widths[0],
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            layer_type="basic",
        )
    )
