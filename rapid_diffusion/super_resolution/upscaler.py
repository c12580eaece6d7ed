"""The upscaling station: a raw network wrapped in checks, padding, tiles and one clamp."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapid_diffusion.checkpoints.folder import (
    load_strict,
    quantize_int8,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from rapid_diffusion.errors import (
    CheckpointError,
    InvalidRequestError,
    NumericalError,
    OutputError,
)
from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network

Storage = Literal["float32", "float16", "int8"]
# Half a grey level of 8 bits: rounding in bfloat16 passes, an image in [-1, 1] does not.
_RANGE_SLACK = 1 / 510


class Upscaler(nn.Module):
    """Enlarges images (B, 3, H, W) in [0, 1] to (B, 3, scale*H, scale*W) in [0, 1].

    Sides longer than `tile` are cut into equal tiles that share at least `overlap` pixels and
    are blended where they meet. One call of the network sees at most `tile`² pixels (of one
    tile at least), so `tile` also bounds the memory.
    """

    def __init__(
        self, network: nn.Module, config: UpscalerConfig, *, tile: int = 256, overlap: int = 32
    ) -> None:
        """Raises `ValueError` for tiles the network cannot take."""
        super().__init__()
        if tile % config.multiple or overlap < 0 or tile < 2 * overlap + config.multiple:
            raise ValueError(
                f"tile={tile}, overlap={overlap}: the tile must be a multiple of "
                f"{config.multiple} and longer than twice the overlap"
            )
        self.network = network
        self.config = config
        self.tile = tile
        self.overlap = overlap

    @property
    def scale(self) -> int:
        """How many times longer the sides come out."""
        return self.config.scale

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Open a folder with `config.json` and `model.safetensors`, ready to run.

        Raises:
            CheckpointError: a file is missing, damaged, or does not fit the other.
        """
        folder = Path(folder)
        values = read_json(folder / "config.json")
        try:
            config = UpscalerConfig(**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(folder / "config.json", f"is not ours: {error}") from error
        network = build_network(config)
        load_strict(network, read_weights(folder), folder)
        return cls(network.eval(), config)

    def save(self, folder: str | Path, storage: Storage = "float32") -> None:
        """Write the folder that `from_folder` opens; float32 keeps every bit.

        Raises:
            OutputError: the folder cannot be made or written; no file is half-written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
        weights = self.network.state_dict()
        if storage == "float16":
            weights = {name: tensor.half() for name, tensor in weights.items()}
        elif storage == "int8":
            weights = quantize_int8(weights)
        write_weights(weights, folder / "model.safetensors")
        write_json(folder / "config.json", self.config.to_dict())

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge `image` (B, 3, H, W) in [0, 1]; same device and dtype, in [0, 1].

        Raises:
            InvalidRequestError: another shape or type, or values outside [0, 1].
            NumericalError: the network gave a NaN or an infinity.
        """
        self._check(image)
        height, width = image.shape[-2:]
        with torch.no_grad():
            enlarged = self._enlarge(_pad(image, self.config.multiple))
        enlarged = enlarged[..., : height * self.scale, : width * self.scale]
        if not bool(torch.isfinite(enlarged).all()):
            raise NumericalError("the upscaler gave a NaN or an infinity; run it in float32")
        return enlarged.clamp(0, 1).to(image.dtype)

    def _check(self, image: Tensor) -> None:
        channels = self.config.num_in_ch
        if image.dim() != 4 or image.shape[1] != channels or 0 in image.shape:
            shape = tuple(image.shape)
            raise InvalidRequestError("image", f"shape is {shape}, not (B, {channels}, H, W)")
        if not image.is_floating_point():
            raise InvalidRequestError("image", f"type is {image.dtype}; convert it to float first")
        low, high = (float(bound) for bound in torch.aminmax(image))
        # Written so that a NaN, which compares with nothing, fails too.
        if not (low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK):
            raise InvalidRequestError(
                "image", f"values go from {low:g} to {high:g}; bring them to [0, 1] first"
            )

    def _enlarge(self, image: Tensor) -> Tensor:
        """Run the network on the tiles of an image whose sides fit it; blend the results."""
        batch, _, height, width = image.shape
        scale, step = self.scale, self.config.multiple
        tile_height, tile_width = min(height, self.tile), min(width, self.tile)
        rows = _starts(height, tile_height, self.overlap, step)
        columns = _starts(width, tile_width, self.overlap, step)
        corners = list(product(rows, columns))
        tiles = torch.cat([image[..., y : y + tile_height, x : x + tile_width] for y, x in corners])
        results = self._run(tiles)
        if len(corners) == 1:
            return results
        down = _weights(height, tile_height, rows, self.overlap, scale).to(image.device)
        across = _weights(width, tile_width, columns, self.overlap, scale).to(image.device)
        channels = self.config.num_out_ch
        whole = torch.zeros(batch, channels, height * scale, width * scale, device=image.device)
        for (y, x), result in zip(corners, results.chunk(len(corners)), strict=True):
            weight = down[rows.index(y)][:, None] * across[columns.index(x)]
            whole[
                ...,
                y * scale : (y + tile_height) * scale,
                x * scale : (x + tile_width) * scale,
            ] += result * weight
        return whole

    def _run(self, tiles: Tensor) -> Tensor:
        parameter = next(self.network.parameters())
        ready = tiles.to(parameter.device, parameter.dtype)
        parts = [self.network(part) for part in _even_parts(ready, self.tile**2)]
        return torch.cat(parts)[: len(tiles)].float()


def _pad(image: Tensor, multiple: int) -> Tensor:
    """Lengthen the lower and right sides to multiples of `multiple` by reflection."""
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return image
    # A picture of one or two pixels is too short to be reflected that far.
    mode = "reflect" if below < height and right < width else "replicate"
    return functional.pad(image, (0, right, 0, below), mode=mode)


def _starts(length: int, tile: int, overlap: int, step: int) -> list[int]:
    """Where tiles begin so that they cover `length`, share >= `overlap`, and keep to `step`."""
    if length == tile:
        return [0]
    stride = (tile - overlap) // step * step
    count = -(-(length - tile) // stride) + 1
    return [(length - tile) // step * index // (count - 1) * step for index in range(count)]


def _weights(length: int, tile: int, starts: list[int], overlap: int, scale: int) -> Tensor:
    """Weights (tiles, scale*tile) that sum to one at every place of the enlarged side.

    A tile's border knows the least of its surroundings: its outer quarter of the overlap counts
    nothing, the middle half rises linearly. Sides on the picture's border keep full weight.
    """
    place = (torch.arange(tile * scale) + 0.5) / scale
    quarter = max(overlap / 4, 0.25)
    total = torch.zeros(length * scale)
    rows = []
    for start in starts:
        rise = ((place - quarter) / (2 * quarter)).clamp(1e-6, 1)
        before = rise if start > 0 else torch.ones_like(rise)
        after = rise.flip(0) if start + tile < length else torch.ones_like(rise)
        rows.append(before * after)
        total[start * scale : (start + tile) * scale] += rows[-1]
    spans = zip(rows, starts, strict=True)
    return torch.stack([row / total[at * scale : (at + tile) * scale] for row, at in spans])


def _even_parts(tiles: Tensor, max_pixels: int) -> Iterator[Tensor]:
    """Split (N, C, h, w) into parts of one size: the bits of a row depend on the batch size,
    so the last part is filled up with copies of its last row rather than left shorter. What
    the copies give is to be dropped.
    """
    at_once = max(1, max_pixels // (tiles.shape[-1] * tiles.shape[-2]))
    count = -(-len(tiles) // at_once)
    size = -(-len(tiles) // count)
    for begin in range(0, len(tiles), size):
        part = tiles[begin : begin + size]
        yield torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
