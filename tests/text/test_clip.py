"""The contrastive pair: unit features, and captions that belong to several pictures."""

import json
import math

import pytest
import torch

from rapid_diffusion.config import ImageTowerConfig, TextConfig
from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.text.clip import ContrastivePair, read_pair, write_pair
from rapid_diffusion.text.encoder import build_text_encoder


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    text = build_text_encoder(TextConfig(20, 16, 1, 2, 6, 4))
    return ContrastivePair(text, ImageTowerConfig((8, 8, 8, 8), (1, 1, 1, 1), 8)).eval()


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    return images, torch.randn(3, 5, 16, generator=generator)


def test_features_are_unit_vectors(pair):
    images, hidden = batch()
    for features in (pair.image_features(images), pair.text_features(hidden)):
        assert features.shape == (3, 8)
        assert torch.allclose(features.norm(dim=1), torch.ones(3))


def test_larger_pictures_are_shrunk_to_the_side_the_tower_knows(pair, tmp_path):
    write_pair(pair, tmp_path / "image_tower", dict)
    config = tmp_path / "image_tower" / "config.json"
    config.write_text(config.read_text().replace('"side": 0', '"side": 16'))
    sided = read_pair(tmp_path / "image_tower", pair.text)
    images = batch()[0]
    small = torch.nn.functional.avg_pool2d(images, 2)
    assert torch.allclose(sided.image_features(images), pair.image_features(small))
    assert torch.equal(sided.image_features(small), pair.image_features(small))


@pytest.mark.parametrize("side", [-1, 2.5, "64"])
def test_a_side_that_is_none_is_told(pair, tmp_path, side):
    write_pair(pair, tmp_path / "image_tower", dict)
    config = tmp_path / "image_tower" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"side": side}))
    with pytest.raises(CheckpointError, match=r"side .* a whole number from 0 on"):
        read_pair(tmp_path / "image_tower", pair.text)


def test_the_loss_does_not_depend_on_the_order_of_the_batch(pair):
    (images, hidden), same = batch(), torch.eye(3, dtype=torch.bool)
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(
        pair.loss(images, hidden, same), pair.loss(images[order], hidden[order], same)
    )


def test_captions_of_the_same_picture_count_neither_for_nor_against(pair):
    images, hidden = batch()
    everything_is_the_same = torch.ones(3, 3, dtype=torch.bool)
    assert pair.loss(images, hidden, everything_is_the_same) == 0
    nothing_is = torch.eye(3, dtype=torch.bool)
    assert 0 < pair.loss(images, hidden, nothing_is) < 2 * math.log(3) + 20
