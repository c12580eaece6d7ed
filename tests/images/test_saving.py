import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rapid_diffusion.errors import InvalidRequestError, OutputError
from rapid_diffusion.images.saving import save_image

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
SUFFIXES = ["png", "jpg", "jpeg", "webp", "PNG"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("picture", [PIXELS, Image.fromarray(PIXELS)], ids=["array", "pillow"])
def test_the_suffix_chooses_the_format(tmp_path, suffix, picture):
    save_image(tmp_path / f"a.{suffix}", picture)
    with Image.open(tmp_path / f"a.{suffix}") as read:
        assert read.size == (24, 32)
        assert read.format == {"jpg": "JPEG", "jpeg": "JPEG"}.get(suffix, suffix.upper())


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", ".png"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(InvalidRequestError, match=r"\.webp") as caught:
        save_image(tmp_path / name, PIXELS)
    assert caught.value.field == "output"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    def half_written(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(OutputError, match=rf"a\.{suffix}.*No space"):
        save_image(path, PIXELS)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


def test_a_write_cut_short_by_the_system_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OutputError, match=r"a\.png"):
            save_image(tmp_path / "a.png", PIXELS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for place in ("missing/a.png", "file/a.png", "folder.png", "n" * 300 + ".png"):
        with pytest.raises(OutputError, match=place):
            save_image(tmp_path / place, PIXELS)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_a_folder_without_permission_is_an_output_error(tmp_path, monkeypatch):
    def denied(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Simulated: the tests may run as root, to whom nothing is denied.
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OutputError, match="Permission denied"):
        save_image(tmp_path / "a.png", PIXELS)


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_image(tmp_path / "a.png", PIXELS)
    assert not list(tmp_path.iterdir())
