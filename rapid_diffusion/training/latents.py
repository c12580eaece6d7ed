"""The latents of the pictures a stage learns from: computed once, kept on disk, mapped from there.

The file's name is a digest of what made them (the autoencoder's weights and the pictures), so
that a stale one is never taken for a fresh one; it gets that name when it is whole.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rapid_diffusion.autoencoder import Autoencoder, DiffusersAutoencoder
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.files import replacing
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.data import Examples
from rapid_diffusion.training.streaming import ShardExamples

logger = logging.getLogger(__name__)

AnyExamples = Examples | ShardExamples
BATCH = 64
_MEAN_OF = 4096
_BLOCK = 1 << 24


def open_examples(config: DataConfig, max_length: int, output: Path | None = None) -> AnyExamples:
    """The examples of a configuration: from a prepared folder, or from shards if it names them."""
    kind = ShardExamples if config.shards else Examples
    return kind(config, max_length, output)


class FixedLatents:
    """The latents of every picture of a folder: `latents[indices]` is (B, C, h, w)."""

    def __init__(self, array: NDArray[np.float32], train: list[int]) -> None:
        self._array, self._train = array, train

    def __getitem__(self, indices: list[int]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._array[indices]))

    def mean(self) -> Tensor:
        """The mean over the training pictures (C, h, w)."""
        total = torch.zeros(self._array.shape[1:], dtype=torch.float64)
        for start in range(0, len(self._train), BATCH):
            total += self[self._train[start : start + BATCH]].double().sum(0)
        return (total / len(self._train)).float()


class StreamedLatents:
    """Latents of pictures that come from shards: encoded when they are asked for."""

    def __init__(self, autoencoder: Autoencoder, examples: ShardExamples) -> None:
        self._autoencoder, self._examples = autoencoder, examples

    @torch.no_grad()
    def __getitem__(self, indices: list[int]) -> Tensor:
        return self._autoencoder.encode(self._examples.picture_batch(indices))

    @torch.no_grad()
    def mean(self) -> Tensor:
        """The mean over some thousand pictures (C, h, w)."""
        return self._autoencoder.encode(self._examples.some_pictures(_MEAN_OF)).mean(0)


def open_latents(autoencoder: Autoencoder, examples: AnyExamples) -> FixedLatents | StreamedLatents:
    """The latents of the examples, from the disk if they were computed before.

    They lie beside the autoencoder's checkpoint, `OUTPUT/stages/autoencoder/latents-DIGEST.npy`;
    examples without an output folder keep them in memory. Raises `OutputError` (disk full).
    """
    if isinstance(examples, ShardExamples):
        return StreamedLatents(autoencoder, examples)
    if examples.output is None:
        return FixedLatents(encode_all(autoencoder, examples).numpy(), examples.train)
    folder = examples.output / "stages" / "autoencoder"
    path = folder / f"latents-{latents_digest(autoencoder, examples)}.npy"
    if not path.is_file():
        logger.info("encoding %d pictures once, into %s", len(examples.rows), path)
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, autoencoder, examples)
        for stale in folder.glob("latents-*.npy"):
            if stale != path:
                stale.unlink(missing_ok=True)
    return FixedLatents(_mapped(path, len(examples.rows)), examples.train)


def latents_digest(autoencoder: Autoencoder, examples: Examples) -> str:
    """16 hexadecimal digits that change with the autoencoder or any pixel."""
    digest = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy())
    if isinstance(autoencoder, DiffusersAutoencoder):
        digest.update(f"{autoencoder.shift} {autoencoder.scale}\n".encode())
    pictures = examples.pictures
    digest.update(f"{pictures.shape} {pictures.dtype}\n".encode())
    rows = max(1, _BLOCK // int(np.prod(pictures.shape[1:])))
    for start in range(0, len(pictures), rows):
        digest.update(np.ascontiguousarray(pictures[start : start + rows]).data)
    return digest.hexdigest()[:16]


def _write(path: Path, autoencoder: Autoencoder, examples: Examples) -> None:
    with replacing(path) as temporary:
        array = None
        for start, part in _encoded(autoencoder, examples):
            if array is None:
                shape = (len(examples.rows), *part.shape[1:])
                array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            array[start : start + len(part)] = part.numpy()
        assert array is not None  # a data set without rows is refused when it is opened
        array.flush()


@torch.no_grad()
def _encoded(
    autoencoder: Autoencoder, examples: Examples, batch: int = BATCH
) -> Iterator[tuple[int, Tensor]]:
    """Latents of one batch after the other, with the number of their first picture."""
    numbers = list(range(len(examples.rows)))
    for start in range(0, len(numbers), batch):
        pictures = examples.picture_batch(numbers[start : start + batch])
        yield start, autoencoder.encode(pictures)


def _mapped(path: Path, count: int) -> NDArray[np.float32]:
    try:
        array: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise CheckpointError(path, f"is no whole array ({error}); remove it") from error
    if len(array) != count:
        raise CheckpointError(path, f"{len(array)} latents for {count} pictures; remove it")
    return array


def encode_all(autoencoder: Autoencoder, examples: Examples, batch: int = BATCH) -> Tensor:
    """The latents of every picture (N, C, h, w), in memory."""
    return torch.cat([part for _, part in _encoded(autoencoder, examples, batch)])
