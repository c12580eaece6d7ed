"""The label in XMP: whole XML in every format, found again, also as other programs write it."""

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from rapid_diffusion.images.label import generation_text, read_labels
from rapid_diffusion.images.saving import save_image
from rapid_diffusion.images.xmp import NAMESPACE, PNG_KEY, label_packet, packet_label

PIXELS = np.full((8, 8, 3), 200, np.uint8)
TEXT = generation_text({"prompt": "老虎 <&>"}, "CODE&1<", "img_1")


def packet_of(path):
    with Image.open(path) as picture:
        picture.load()
        packet = picture.info.get(PNG_KEY) or picture.info["xmp"]
    return packet if isinstance(packet, str) else packet.decode()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_packet_is_xml_with_the_label_in_its_namespace(tmp_path, suffix):
    save_image(tmp_path / f"a.{suffix}", PIXELS, TEXT)
    root = ElementTree.fromstring(packet_of(tmp_path / f"a.{suffix}").split("?>", 1)[1])
    found = root.find(f".//{{{NAMESPACE}}}AIGC")
    assert json.loads(found.text) == json.loads(TEXT["AIGC"])
    assert root.tag == "{adobe:ns:meta/}xmpmeta"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_both_labels_of_a_file_agree_when_read(tmp_path, suffix):
    save_image(tmp_path / f"a.{suffix}", PIXELS, TEXT)
    read = read_labels(tmp_path / f"a.{suffix}")
    assert read["xmp"] == read["AIGC"] == json.loads(TEXT["AIGC"])
    assert read["parameters"] == {"prompt": "老虎 <&>"}


def test_a_png_holds_the_packet_where_xmp_wants_it(tmp_path):
    save_image(tmp_path / "a.png", PIXELS, TEXT)
    content = (tmp_path / "a.png").read_bytes()
    assert content[content.index(PNG_KEY.encode()) - 4 :].startswith(b"iTXt")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_without_a_label_there_is_no_packet(tmp_path, suffix):
    save_image(tmp_path / f"a.{suffix}", PIXELS, {"parameters": "{}"})
    assert read_labels(tmp_path / f"a.{suffix}")["xmp"] is None


@pytest.mark.parametrize(
    "packet",
    [
        "<rdf:Description TC260:AIGC='{&quot;Label&quot;:&quot;1&quot;}'/>",
        '<rdf:Description TC260:AIGC="{&quot;Label&quot;:&quot;1&quot;}"/>',
        label_packet('{"Label":"1"}'),
    ],
)
def test_an_attribute_is_read_like_an_element(packet):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", xmp=packet.encode())
    assert packet_label(Image.open(file)) == '{"Label":"1"}'


def test_foreign_bytes_are_no_obstacle():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", xmp=b"\xff\xfe<TC260:AIGC>" + b"<" * 50_000)
    assert packet_label(Image.open(file)) is None
