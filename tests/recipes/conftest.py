"""Fashion-MNIST's four files with a few pictures of our own in them."""

import gzip
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory) -> Path:
    """Four pictures of each of the ten labels, in both parts: bright blocks on black, (28, 28)."""
    folder = tmp_path_factory.mktemp("idx")
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.tile(np.arange(10, dtype=np.uint8), 4)
        pictures = np.zeros((40, 28, 28), np.uint8)
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            inside = picture[2 : 26 - label, 4:24]
            inside[:] = generator.integers(60, 250, inside.shape)
        for name, array in ((f"{part}-images-idx3", pictures), (f"{part}-labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4) for size in array.shape)
            content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
            (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder
