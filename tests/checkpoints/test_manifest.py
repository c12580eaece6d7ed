"""A model folder knows what it should hold."""

import pytest

from rapid_diffusion.checkpoints.manifest import check_manifest, write_manifest
from rapid_diffusion.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model_index.json").write_text("{}")
    return tmp_path


def test_a_folder_without_a_manifest_cannot_be_checked(folder):
    assert not check_manifest(folder)


def test_a_folder_fits_its_own_manifest(folder):
    write_manifest(folder)
    write_manifest(folder)  # the manifest does not list itself
    assert check_manifest(folder)


def test_a_changed_byte_is_found_in_its_file(folder):
    write_manifest(folder)
    (folder / "unet" / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(CheckpointError, match="checksum") as caught:
        check_manifest(folder)
    assert caught.value.path == folder / "unet" / "model.safetensors"


def test_a_missing_and_a_foreign_file_are_named(folder):
    write_manifest(folder)
    (folder / "extra.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"extra\.bin.*remove"):
        check_manifest(folder)
    (folder / "extra.bin").unlink()
    (folder / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"model_index\.json.*missing"):
        check_manifest(folder)


def test_a_foreign_manifest_is_refused(folder):
    (folder / "manifest.json").write_text('{"files": []}')
    with pytest.raises(CheckpointError, match="lists no files"):
        check_manifest(folder)
