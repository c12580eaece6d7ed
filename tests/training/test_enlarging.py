"""What enlarges latents learns to: a decoder's network, and an upscaler on what that one gives."""

import json
import re

import numpy as np
import pytest
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.autoencoder import PatchAutoencoder, PatchConfig
from rapid_diffusion.checkpoints.folder import load_strict
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.images.convert import model_to_unit
from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.training.beginnings import known_decoder, known_upscaler
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


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory):
    """A folder of a network that enlarges four times, in Real-ESRGAN's format."""
    torch.manual_seed(0)
    sizes = UpscalerConfig("SRVGGNetCompact", scale=4, num_feat=12, num_conv=2)
    path = tmp_path_factory.mktemp("enlarger") / "four.pth"
    torch.save({"params": build_network(sizes).state_dict()}, path)
    return path


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("shrink = 2", "shrink = 3"), "autoencoder.shrink"),
        (("shrink = 2", "shrink = 1"), "autoencoder.shrink"),
        (("decoder_width = 12", "decoder_width = 16"), "autoencoder.decoder_width"),
        (("decoder_layers = 2", "decoder_layers = 3"), "autoencoder.decoder_layers"),
    ],
)
def test_a_decoder_of_other_sizes_than_it_begins_with_is_named_at_the_start(
    write_config, enlarger, change, field
):
    path = begun_with(enlarger, write_config)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(InvalidRequestError, match=r"as data\.decoder_from") as caught:
        Training(read_training_config(path))
    assert caught.value.field == field


def test_an_upscaler_of_another_kind_is_no_decoder(write_config, tmp_path):
    other = build_network(UpscalerConfig(num_feat=8, num_grow_ch=4, num_block=1))
    torch.save({"params": other.state_dict()}, tmp_path / "other.pth")
    path = begun_with(tmp_path / "other.pth", write_config)
    with pytest.raises(InvalidRequestError, match=r"RRDBNet; allowed: .*SRVGGNetCompact") as caught:
        Training(read_training_config(path))
    assert caught.value.field == "data.decoder_from"


def test_a_decoder_begins_as_the_upscaler_shrunk_to_its_size(enlarger):
    autoencoder = PatchAutoencoder(PatchConfig(2, 12, 2, decoder_width=12, decoder_layers=2))
    load_strict(autoencoder.network, known_decoder(str(enlarger), 2), enlarger)
    autoencoder.fit(torch.rand(2, 3, 8, 8) * 2 - 1)
    latents = torch.randn(2, 12, 4, 4)
    small = PatchAutoencoder(PatchConfig(2, 12))
    for name in ("basis", "mean", "scale"):
        getattr(small, name).copy_(getattr(autoencoder, name))
    with torch.no_grad():
        enlarged = known_upscaler(str(enlarger)).network(model_to_unit(small.decode(latents)))
        wanted = torch.nn.functional.avg_pool2d(enlarged, 2) * 2 - 1
        assert torch.allclose(autoencoder.decode(latents), wanted, atol=1e-4)


def begun_with(start, write_config):
    """The configuration of a decoder that begins with an upscaler."""
    path = shrunk(write_config(0), 0)
    named = f'decoder_from = "{start}"\n[text]\n'
    path.write_text(path.read_text().replace("[text]\n", named, 1))
    return path


def test_a_training_takes_the_decoder_along_that_is_named(write_config, enlarger):
    training = Training(read_training_config(begun_with(enlarger, write_config)))
    training.train("autoencoder", resume=True)
    begun = training.autoencoder(trained=False).network.state_dict()
    known = known_decoder(str(enlarger), 2)
    assert all(torch.equal(begun[name], known[name]) for name in known)
