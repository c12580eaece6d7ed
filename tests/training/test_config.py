"""The TOML file of a training: every key that does not fit is named."""

import pytest

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.training.config import read_training_config


def test_a_configuration_is_read_with_its_defaults(write_config):
    config = read_training_config(write_config(steps=7))
    assert config.model.name == "tiny"
    assert config.denoiser.attends == (False, True)
    assert config.loops["text"].steps == 7
    assert config.loops["text"].ema == 0.999
    assert config.text.vocabulary == 0  # read off the captions later


@pytest.mark.parametrize("name", ["config.toml", "gpu.toml"])
def test_a_shipped_recipe_is_a_configuration(name):
    from pathlib import Path

    recipe = Path(__file__).parents[2] / "recipes" / "emoji_zh"
    config, shipped = (read_training_config(recipe / each) for each in (name, "config.toml"))
    assert config.model.name == "emoji-zh"
    # as large as the autoencoder's patches and the upscaler make them
    wanted = "pictures_128.npy", "pictures_512.npy"
    assert (config.data.pictures, config.data.large_pictures) == wanted
    # A slice on a GPU goes on with the shipped weights, so its networks are the same.
    for part in ("model", "text", "image_tower", "autoencoder", "denoiser", "upscaler"):
        assert getattr(config, part) == getattr(shipped, part)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[", "config"),
        ("", "output"),
        ("output = 5", "output"),
        ('output = "o"\ncolour = 1', "colour"),
        ('output = "o"\nmodel = "x"', "model"),
        ('output = "o"\nloops = 1', "loops"),
        ('output = "o"\n[model]\nlicense = "x"', "model.name"),
        ('output = "o"\n[model]\nname = 5', "model.name"),
        ('output = "o"\n[model]\nname = "m"\nstorage = "int4"', "model.storage"),
        ('output = "o"\n[model]\nname = "m"', "data.folder"),
        ('output = "o"\n[loops.text]\nsteps = 5\nbatch = 2', "loops.text.learning_rate"),
        ('output = "o"\n[loops.text]\nsteps = "5"', "loops.text.steps"),
        ('output = "o"\n[loops.text]\nsteps = true', "loops.text.steps"),
        ('output = "o"\n[loops.text]\nspeed = 5', "loops.text.speed"),
        ('output = "o"\n[loops.a]\nsteps = 1\nbatch = 0\nlearning_rate = 1', "loops.a.batch"),
        ('output = "o"\n[loops.a]\nsteps = -1\nbatch = 1\nlearning_rate = 1', "loops.a.steps"),
        ('output = "o"\n[loops]\ntext = 5', "loops.text"),
    ],
)
def test_the_key_that_does_not_fit_is_named(tmp_path, text, field):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequestError) as caught:
        read_training_config(path)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("[denoiser]\nwidths = 8", "denoiser.widths"),
        ("[denoiser]\nattends = [1, 0]", "denoiser.attends"),
        ('[text]\nwidth = "16"', "text.width"),
        ("[upscaler]\nscale = 3", "upscaler"),
        ('[upscaler]\narchitecture = "U"', "upscaler.architecture"),
    ],
)
def test_sizes_of_the_wrong_type_are_named(tmp_path, section, field):
    path = tmp_path / "config.toml"
    path.write_text(f'output = "o"\n[model]\nname = "m"\n[data]\nfolder = "d"\n{section}')
    with pytest.raises(InvalidRequestError) as caught:
        read_training_config(path)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(InvalidRequestError) as caught:
        read_training_config(tmp_path / name)
    assert caught.value.field == "config"
    assert str(tmp_path) in str(caught.value)


def test_the_weighting_of_the_flow_is_read_and_checked(write_config):
    path = write_config()
    assert read_training_config(path).diffusion.weighting == "none"
    path.write_text(path.read_text() + '[diffusion]\nweighting = "min_snr"\ngamma = 3\n')
    assert vars(read_training_config(path).diffusion) == {"weighting": "min_snr", "gamma": 3}
    path.write_text(path.read_text().replace("gamma = 3", "gamma = 0"))
    with pytest.raises(InvalidRequestError, match=r"diffusion\.gamma: 0; allowed: more than 0"):
        read_training_config(path)
