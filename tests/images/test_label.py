import json

import numpy as np
import pytest

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images.label import explicit_fact, generation_text, read_labels
from rapid_diffusion.images.saving import save_image

PIXELS = np.full((3, 5, 3), 200, np.uint8)
PARAMETERS = {"prompt": "三维立体风格的老虎 🐯", "seed": 2**53 - 1, "guidance_scale": 5.5}


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp"])
def test_labels_come_back_from_every_format(tmp_path, suffix):
    path = tmp_path / f"老虎.{suffix}"
    save_image(path, PIXELS, generation_text(PARAMETERS, producer="CODE-1", produce_id="img_1"))
    read = read_labels(path)
    assert read["parameters"] == PARAMETERS
    assert read["AIGC"]["ContentProducer"] == "CODE-1"
    assert (read["width"], read["height"]) == (5, 3)


def test_the_label_has_the_fields_of_the_standard():
    label = json.loads(generation_text({}, "CODE")["AIGC"])
    assert list(label) == [
        "Label",
        "ContentProducer",
        "ProduceID",
        "ReservedCode1",
        "ContentPropagator",
        "PropagateID",
        "ReservedCode2",
    ]
    assert label["Label"] == "1"


def test_no_producer_is_invented():
    assert "ContentProducer" not in json.loads(generation_text(PARAMETERS)["AIGC"])


@pytest.mark.parametrize("code", ['a"b', "a\\b", "a b", "公司", "a\n", "é"])
def test_codes_the_label_cannot_hold_are_refused(code):
    with pytest.raises(InvalidRequestError) as caught:
        generation_text({}, producer=code)
    assert caught.value.field == "producer"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_without_labels_says_so(tmp_path, suffix):
    save_image(tmp_path / f"plain.{suffix}", PIXELS)
    read = read_labels(tmp_path / f"plain.{suffix}")
    assert read["parameters"] is None
    assert read["AIGC"] is None


def test_foreign_text_is_given_back_raw(tmp_path):
    save_image(tmp_path / "a.png", PIXELS, {"parameters": "a tiger, Steps: 20"})
    assert read_labels(tmp_path / "a.png")["parameters"] == "a tiger, Steps: 20"


def test_files_that_are_no_whole_picture_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    save_image(whole, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = whole.read_bytes()
    for name, part in [("empty", b""), ("text", b"hello"), ("cut", content[: len(content) // 2])]:
        (tmp_path / name).write_bytes(part)
        with pytest.raises(InvalidRequestError, match=name) as caught:
            read_labels(tmp_path / name)
        assert caught.value.field == "file"
    with pytest.raises(InvalidRequestError, match="nowhere"):
        read_labels(tmp_path / "nowhere.png")


def test_more_text_than_a_jpeg_holds_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match="PNG"):
        save_image(tmp_path / "a.jpg", PIXELS, {"parameters": "x" * 70_000})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("position", "shows"), [("top_left", True), (None, False)])
def test_a_file_tells_whether_it_shows_the_label(tmp_path, position, shows):
    told = PARAMETERS | {"label": explicit_fact(position)}
    save_image(tmp_path / "a.png", PIXELS, generation_text(told))
    save_image(tmp_path / "plain.png", PIXELS)
    assert read_labels(tmp_path / "a.png")["explicit"] is shows
    assert read_labels(tmp_path / "plain.png")["explicit"] is None
