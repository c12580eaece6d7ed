"""What enlarges latents learns to: a decoder's network, and an upscaler on what that one gives."""

import json
import re

import numpy as np
import pytest
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.data import to_signed
from rapid_diffusion.training.enlarging import _crops
from rapid_diffusion.training.run import Training, run

SHRUNK = """[autoencoder]
patch = 2
shrink = 2
decoder_width = 12
decoder_layers = 2
[loops.decoder]
steps = {steps}
batch = 8
learning_rate = 1e-2
warmup = 5
"""


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Pictures of 32 and 64 px whose edges are sharp: white discs on black."""
    folder = tmp_path_factory.mktemp("discs")
    generator = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(256), np.arange(256))
    fine = np.stack(
        [
            (across - x) ** 2 + (down - y) ** 2 < r**2
            for x, y, r in generator.uniform(60, 190, (12, 3)) * (1, 1, 0.4)
        ]
    )
    for name, side in (("small", 32), ("large", 64)):
        step = 256 // side
        shares = fine.reshape(12, side, step, side, step).mean((2, 4))
        pixels = (255 * shares).round().astype(np.uint8)
        np.save(folder / f"{name}.npy", np.repeat(pixels[..., None], 3, 3))
    rows = [{"captions": ["一个猫"]} for _ in range(12)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_micro_graph(folder / "graph")
    return folder


def shrunk(path, steps):
    """The configuration, its pictures shrunk before they are cut into patches."""
    text = path.read_text().replace("[autoencoder]\n", SHRUNK.format(steps=steps))
    # the key of the table that comes before goes where it belongs
    text = re.sub(r"(warmup = 5\n)(channels = 8\n)", r"\1", text)
    path.write_text(text.replace("shrink = 2\n", "shrink = 2\nchannels = 8\n", 1))
    return path


def test_crops_of_both_sizes_show_the_same_place(discs):
    large = np.load(discs / "large.npy")
    small = large[:, ::2, ::2]
    corners = [[0, 4], [10, 6]]
    one, two = (
        _crops(pictures, scale, [3, 4], corners, 16) for pictures, scale in ((small, 1), (large, 2))
    )
    assert (one.shape, two.shape) == ((2, 3, 16, 16), (2, 3, 32, 32))
    assert torch.equal(one, two[:, :, ::2, ::2])
    assert torch.equal(one[1], to_signed(small[[4], 10:26, 6:22])[0])


def test_a_decoder_learns_edges_that_patches_of_small_pictures_do_not_tell(
    write_config, discs, tmp_path
):
    training = Training(read_training_config(shrunk(write_config(folder=discs), 150)))
    for stage in ("autoencoder", "decoder"):
        training.train(stage, resume=True)
    truth = to_signed(training.examples.pictures[list(range(12))])
    errors = []
    for autoencoder in (training.autoencoder(trained=False), training.autoencoder()):
        with torch.no_grad():
            decoded = autoencoder.decode(autoencoder.encode(truth))
        errors.append((decoded - truth).square().mean().item())
    assert errors[1] < 0.5 * errors[0]


def test_a_model_draws_at_the_size_its_decoder_gives(write_config, data_folder, tmp_path):
    run(shrunk(write_config(1), 1))
    pipe = RapidDiffusionPipeline.from_pretrained(tmp_path / "run" / "model")
    sizes = [pipe("一个猫", seed=0, upscale=scale).images[0].size for scale in (1, 2)]
    assert sizes == [(32, 32), (64, 64)]
    assert pipe.model.autoencoder.config.shrink == 2
