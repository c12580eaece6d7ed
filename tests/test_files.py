"""Files appear whole, under the mode that the user's umask asks for."""

import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from rapid_diffusion.checkpoints.folder import write_weights
from rapid_diffusion.errors import OutputError
from rapid_diffusion.files import replacing, write_bytes


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_file_has_the_mode_of_the_umask_whoever_writes_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "bytes", b"1")
        write_weights({"a": torch.ones(2)}, tmp_path / "a.safetensors")
        with replacing(tmp_path / "checkpoint.pt") as temporary:
            torch.save({}, temporary)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_writer_that_removes_its_file_leaves_the_old_one(tmp_path):
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(OutputError), replacing(tmp_path / "file") as temporary:
        temporary.unlink()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


LAZY = """
import sys
import rapid_diffusion
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert set(rapid_diffusion.__all__) <= set(dir(rapid_diffusion))
from rapid_diffusion import cli
assert cli.run(["train", "--help"]) == 0
assert "torch" not in sys.modules
"""


def test_the_package_and_the_help_of_a_command_do_not_wait_for_torch():
    subprocess.run([sys.executable, "-c", LAZY], check=True, capture_output=True)


def test_every_public_name_is_there_and_no_other():
    import rapid_diffusion

    for name in rapid_diffusion.__all__:
        # A constant has no name of its own.
        assert getattr(getattr(rapid_diffusion, name), "__name__", name) == name
    assert rapid_diffusion.__version__ == metadata.version("rapid-diffusion")
    with pytest.raises(AttributeError, match="dreaming"):
        _ = rapid_diffusion.dreaming
