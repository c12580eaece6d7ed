"""The real pictures of a data set, and what its rows say of them, whatever that is."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from rapid_diffusion.drawing import resized
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.images.convert import pillow_to_pixels, pixels_to_unit
from rapid_diffusion.training.data import read_rows

Row = dict[str, Any]

#: Larger data sets are judged by so many of their pictures, chosen by digest.
MOST_PICTURES = 5000
SIDE = 256


class RealPictures:
    """Rows with a caption each, and their pictures, read as they are needed.

    Pictures are the largest array `*.npy` of the folder (uint8, one a row), else the files that the
    rows name in `file_name`; those are laid on a white square of 256 pixels.
    """

    def __init__(self, folder: Path, most: int = MOST_PICTURES) -> None:
        rows = read_rows(folder / "metadata.jsonl")
        self.folder, self.total = folder, len(rows)
        self.array = _largest_array(folder, len(rows))
        if self.array is None and not all(isinstance(row.get("file_name"), str) for row in rows):
            raise CheckpointError(
                folder,
                f"no array *.npy of {len(rows)} pictures, and not every row has a `file_name`; "
                "give the folder that a training reads",
            )
        self.numbers = _chosen(rows, most)
        self.rows = [rows[number] for number in self.numbers]

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 3) of the rows at these places."""
        if self.array is not None:
            return np.stack([self.array[self.numbers[place]] for place in places])
        return np.concatenate([self._file(self.rows[place]["file_name"]) for place in places])

    def unit(self, places: Sequence[int], size: tuple[int, int]) -> Tensor:
        """(N, 3, H, W) in [0, 1] at that (height, width)."""
        parts = [
            resized(pixels_to_unit(self.pixels(places[start : start + 64])), size)
            for start in range(0, len(places), 64)
        ]
        return torch.cat(parts)

    def _file(self, name: str) -> NDArray[np.uint8]:
        path = self.folder / name
        try:
            with Image.open(path) as picture:
                pixels = Image.fromarray(pillow_to_pixels([picture])[0])
        except (OSError, UnidentifiedImageError) as error:
            raise CheckpointError(path, f"no picture that can be read ({error})") from error
        return pillow_to_pixels([ImageOps.pad(pixels, (SIDE, SIDE), color="white")])


def concept_of(row: Row) -> str | None:
    """What a row shows, as far as it says so."""
    found = row.get("code") or row.get("entity") or row.get("name")
    return None if found is None else str(found)


def kind_of(row: Row) -> str | None:
    """The type of thing that a row shows, as far as it says so."""
    found = row.get("subgroup") or row.get("group")
    return None if found is None else str(found)


def is_training(row: Row) -> bool:
    """Whether a model may have seen it."""
    return bool(row.get("split", "train") == "train")


def digest(text: str) -> str:
    """What decides the order where nobody is to pick."""
    return hashlib.sha256(text.encode()).hexdigest()


def _largest_array(folder: Path, count: int) -> NDArray[np.uint8] | None:
    """The array of pictures with the longest side, mapped from disk; None where there is none."""
    found = []
    for path in sorted(folder.glob("*.npy")):
        try:
            array = np.load(path, mmap_mode="r")
        except (ValueError, EOFError, OSError) as error:
            raise CheckpointError(path, f"is no whole array ({error}); build it again") from error
        if array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3:
            if len(array) != count:
                raise CheckpointError(
                    path, f"{len(array)} pictures for {count} rows; build them again"
                )
            found.append(array)
    return max(found, key=lambda array: array.shape[1]) if found else None


def _chosen(rows: Sequence[Row], most: int) -> list[int]:
    """All rows in their order, or so many of them."""
    order = range(len(rows))
    if len(rows) <= most:
        return list(order)
    return sorted(sorted(order, key=lambda place: digest(f"{place}"))[:most])
