"""What a stage shows its network."""

import torch

from rapid_diffusion.images.convert import model_to_unit
from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.latents import encode_all
from rapid_diffusion.training.loop import Averages
from rapid_diffusion.training.run import Training
from rapid_diffusion.training.stages import _moves, _shift, encode_short


def test_short_sentences_have_the_states_of_padded_ones_and_zeros_behind(write_config):
    training = Training(read_training_config(write_config()))
    encoder, tokens = training.pair(trained=False).text, training.examples.first_captions([0, 1, 2])
    assert int(tokens.mask.sum(1).max()) < tokens.ids.shape[1]
    whole, short = encoder.encode(tokens), encode_short(encoder, tokens)
    assert torch.equal(short.mask, whole.mask)
    assert torch.allclose(short.hidden[short.mask], whole.hidden[whole.mask], atol=1e-5)
    assert short.hidden.shape == whole.hidden.shape
    assert not short.hidden[:, int(tokens.mask.sum(1).max()) :].any()


def test_what_does_not_learn_is_kept_as_it_is_and_not_averaged():
    module = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    module[1].requires_grad_(False)
    averages = Averages(module)
    fixed = averages.values["1.weight"].clone()
    with torch.no_grad():
        module[0].weight.add_(1)
    averages.update(0.5)
    assert torch.equal(averages.values["1.weight"], fixed)
    assert torch.allclose(averages.values["0.weight"], module[0].weight - 0.5)


def test_shifted_pictures_are_rolled_or_mirrored_and_repeat_with_the_step():
    image = torch.arange(3.0 * 20 * 20).reshape(1, 3, 20, 20)
    moved = [_shift(image, _moves(1, step_generator(0, step))) for step in range(8)]
    assert torch.equal(moved[0], _shift(image, _moves(1, step_generator(0, 0))))
    assert all(torch.equal(picture.flatten().sort()[0], image.flatten()) for picture in moved)
    assert len({picture.numpy().tobytes() for picture in moved}) == 8


def test_latents_of_all_pictures_come_in_order(write_config):
    training = Training(read_training_config(write_config()))
    training.train("autoencoder", resume=True)
    autoencoder, examples = training.autoencoder(), training.examples
    latents = encode_all(autoencoder, examples, batch=5)
    assert latents.shape == (12, 8, 8, 8)
    wanted = autoencoder.encode(examples.picture_batch([7]))
    assert torch.allclose(latents[7:8], wanted, atol=1e-5)
    assert model_to_unit(autoencoder.decode(latents)).shape == (12, 3, 32, 32)
