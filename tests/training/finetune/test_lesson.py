"""What a fine-tuning remembers: old sentences are held to what the model said of them."""

import torch

from rapid_diffusion.model_folder import load_model
from rapid_diffusion.training.finetune import Finetuning
from rapid_diffusion.training.finetune_config import read_finetune_config
from rapid_diffusion.training.stages import velocity


def test_rehearsal_takes_its_share_of_every_batch(finished):
    mixture, loop = finished.tuning.mixture, finished.tuning.config.loop("draft")
    tokens, latents = mixture.batch(0, loop, torch.Generator().manual_seed(0))
    assert (len(tokens.ids), len(latents), len(tokens.truncated)) == (4, 4, 4)
    old = mixture.old.latents
    from_old = [any(torch.equal(row, other) for other in old) for row in latents]
    assert from_old == [False, False, True, True]


def test_old_rows_are_held_to_what_the_model_said_and_new_ones_to_their_pictures(write_finetune):
    tuning = Finetuning(read_finetune_config(write_finetune()))
    lesson, loop = tuning.lesson, tuning.config.loop("diffusion")
    tokens, clean = tuning.mixture.batch(0, loop, torch.Generator().manual_seed(0))
    noise, times = torch.randn(clean.shape), torch.tensor([0.2, 0.4, 0.6, 0.8])
    with torch.no_grad():
        states = lesson.memory.encoder.encode(tokens)
        drafts = lesson.memory.denoiser.draft.mean(states.hidden[:, 0])
        said = velocity(lesson.memory.denoiser, states, clean, noise, times)
    for wanted, truth, remembered in (
        (lesson.latents(tokens, clean), clean, drafts),
        (lesson.velocity(tokens, clean, noise, times), noise - clean, said),
    ):
        assert torch.equal(wanted[:2], truth[:2])
        assert torch.allclose(wanted[2:], remembered[2:], atol=1e-5)


def test_what_is_remembered_does_not_learn(finished, micro_model_folder):
    base = load_model(micro_model_folder)
    remembered = finished.tuning.lesson.memory.denoiser.state_dict()
    assert all(torch.equal(remembered[k], v) for k, v in base.denoiser.state_dict().items())
