"""`make demo` leaves pictures and their sentences, whatever fonts the machine has."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from rapid_diffusion.errors import OutputError

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_draws_a_sheet_and_says_where(demo, micro_model_folder, tmp_path, capsys):
    demo.main(["--model", str(micro_model_folder), "--out", str(tmp_path / "out")])
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (4 * (64 + 40), 2 * (64 + 40))
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert all(prompt in page for prompt in demo.PROMPTS)
    assert len(list((tmp_path / "out").glob("0?.png"))) == len(demo.PROMPTS) >= 6
    assert str(tmp_path / "out" / "index.html") in capsys.readouterr().out


def test_the_demo_names_a_folder_that_cannot_be_made(demo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        demo.make_folder(tmp_path / "file")
