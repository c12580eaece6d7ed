"""A picture says enough of itself to be drawn again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rapid_diffusion import RapidDiffusionPipeline, cli
from rapid_diffusion.images.label import read_labels
from rapid_diffusion.images.saving import save_image
from rapid_diffusion.testing import build_micro_adapter

CALL = ("--seed", "7", "--steps", "2", "--guidance", "2", "--scheduler", "dpmpp_2m_sde")


@pytest.fixture
def drawn(micro_model_folder, tmp_path):
    """Draws a picture into a file and returns its name."""

    def call(*more: str) -> str:
        file = str(tmp_path / "a.png")
        model = ("--model", str(micro_model_folder))
        assert cli.run(["generate", "老虎", "-o", file, *model, *CALL, *more]) == 0
        return file

    return call


@pytest.fixture
def verify(micro_model_folder, capsys):
    """Runs the command; gives its exit code and what it printed."""

    def call(file: str, *more: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(["verify", file, "--model", str(micro_model_folder), *more])
        out, error = capsys.readouterr()
        return code, out + error

    return call


@pytest.mark.parametrize("more", [[], ["--negative", "猫"], ["--no-knowledge"], ["--upscale", "1"]])
def test_a_picture_is_drawn_again_to_the_pixel(drawn, verify, more):
    file = drawn(*more)
    assert verify(file) == (0, f"{file}: the same pixels\n")


def test_one_level_in_one_pixel_is_found_and_tolerated_if_asked(drawn, verify):
    file = drawn()
    text = {"parameters": json.dumps(read_labels(file)["parameters"])}
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0, 0] ^= 1
    save_image(file, pixels, text)
    code, out = verify(file, "--json")
    report = json.loads(out)
    assert (code, report["same"], report["largest_difference"]) == (1, False, 1)
    assert report["share_different"] == round(1 / pixels.size, 6)
    assert verify(file, "--tolerance", "1")[0] == 0


def test_what_is_not_as_it_was_is_named(drawn, verify):
    file = drawn()
    told_otherwise(file, digest="sha256:00", engine="torch 1")
    code, out = verify(file)
    assert code == 0
    assert "digest was sha256:00, is sha256:" in out
    assert "engine was torch 1, is rapid-diffusion" in out


def test_a_picture_of_a_shared_engine_is_drawn_again_with_its_rows(
    verify, micro_model_folder, tmp_path
):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder).share_engine(rows=8)
    result = pipe("老虎", seed=7, guidance_scale=1.0, output_type="numpy")
    facts = result.parameters | {"prompt": "老虎", "seed": 7} | pipe.origin
    for rows, code in ((8, 0), (10**9, 2), ("many", 2)):
        text = {"parameters": json.dumps(facts | {"rows": rows})}
        save_image(tmp_path / "a.png", result.images[0], text)
        assert verify(str(tmp_path / "a.png"))[0] == code


def test_an_adapter_has_to_be_given(drawn, verify, micro_adapter_folder):
    file = drawn("--adapter", str(micro_adapter_folder), "--adapter-scale", "0.5")
    code, out = verify(file)
    assert (code, "--adapter" in out) == (2, True)
    assert verify(file, "--adapter", str(micro_adapter_folder))[0] == 0


def told_otherwise(file: str, **facts: object) -> None:
    """The same picture saying something else of its call."""
    told = read_labels(file)["parameters"] | facts
    with Image.open(file) as picture:
        save_image(file, picture, {"parameters": json.dumps(told)})


def test_another_adapter_of_the_same_name_is_named(
    drawn, verify, micro_adapter_folder, micro_model_folder, tmp_path
):
    file = drawn("--adapter", str(micro_adapter_folder))
    other = build_micro_adapter(tmp_path / "other", micro_model_folder, seed=2)
    code, out = verify(file, "--adapter", str(other), "--json")
    changed = json.loads(out)["changed"]
    assert (code, list(changed)) == (1, ["adapter_digest"])
    assert changed["adapter_digest"]["then"] != changed["adapter_digest"]["now"]


@pytest.mark.parametrize(
    "entities", [["老虎"], [{"id": "老虎"}], [{"weight": 1.0}], [{"id": [], "weight": 1}], [None]]
)
def test_entities_that_are_none_are_refused_by_name(drawn, verify, entities):
    file = drawn()
    told_otherwise(file, entities=entities)
    code, out = verify(file)
    assert code == 2
    assert "unexpected" not in out


def test_other_pictures_are_refused_by_name(drawn, verify, tmp_path):
    plain, photo = tmp_path / "plain.png", tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(plain)
    Image.new("RGB", (8, 8)).save(photo)
    for file, word in ((plain, "does not say how"), (photo, "JPEG"), (Path("nope.png"), "nope")):
        code, out = verify(str(file))
        assert (code, word in out) == (2, True)
