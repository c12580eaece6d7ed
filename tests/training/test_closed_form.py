"""The wide end of a draft: it keeps what layers of that width cannot."""

import re
from collections import defaultdict

import pytest
import torch

from rapid_diffusion.model_folder import load_model
from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.latents import open_latents
from rapid_diffusion.training.run import Training, run

WIDE = "draft = 12\ndraft_rank = 12\ndraft_cosines = 300"


@pytest.fixture
def trained(write_config):
    """A training of a draft with a wide end, all before it done."""
    path = write_config(40)
    path.write_text(path.read_text().replace("draft = 12", WIDE))
    for stage in ("text", "autoencoder", "draft"):
        run(path, stage)
    return Training(read_training_config(path))


def around_the_mean(values):
    return (values - values.mean(0)).square().sum()


def test_a_wide_end_says_the_mean_of_the_pictures_of_a_thing(trained):
    """Steps have not come that far. Pictures are noise here, so nothing could do better."""
    narrow = trained._ready(trained._begun_denoiser().draft.without_wide_end(), "draft")
    trained.train("wide_draft", resume=True)
    wide = trained.denoiser(trained=False).draft
    examples = trained.examples
    latents = open_latents(trained.autoencoder(), examples)[examples.train]
    of_a_thing = defaultdict(list)
    for row, picture in zip(examples.train, latents, strict=True):
        of_a_thing[examples.rows[row]["entity"]].append(picture)
    least = sum(around_the_mean(torch.stack(pictures)) for pictures in of_a_thing.values())
    with torch.no_grad():
        tokens = examples.first_captions(examples.train)
        states = trained.pair().text.encode(tokens).hidden[:, 0]
        errors = [(draft(states) - latents).square().sum() for draft in (narrow.eval(), wide)]
    explained = [(around_the_mean(latents) - error) / least for error in errors]
    most = (around_the_mean(latents) - least) / least
    assert explained[1] > 0.8 * most > 2 * explained[0]


def test_what_the_wide_end_explains_is_told(trained, caplog):
    caplog.set_level("INFO")
    trained.train("wide_draft", resume=True)
    draft, loop = trained.denoiser(trained=False).draft, trained.loop("draft")
    latents = open_latents(trained.autoencoder(), trained.examples)
    wrong, seen = [], []
    for step in range(loop.steps):
        indices = trained.examples.indices(step, loop.batch, loop.seed)
        tokens = trained.examples.sentences(indices, step_generator(loop.seed, step))
        with torch.no_grad():
            drafts = draft(trained.pair().text.encode(tokens).hidden[:, 0])
        seen.append(latents[indices])
        wrong.append((drafts - seen[-1]).square().sum())
    share = 1 - sum(wrong) / around_the_mean(torch.cat(seen))
    told = re.search(r"explains ([0-9.]+) of the variance", caplog.text)
    assert float(told[1]) == pytest.approx(share.item(), abs=2e-3)


def test_a_wide_end_is_fitted_once_and_anew_to_other_hidden_layers(trained, write_config, caplog):
    caplog.set_level("INFO")
    fitted = []
    for steps in (40, 40, 41):
        path = write_config(steps)
        path.write_text(path.read_text().replace("draft = 12", WIDE))
        for stage in ("draft", "wide_draft"):
            run(path, stage)
        fitted.append(caplog.text.count("explains"))
    assert fitted == [1, 1, 2]


def test_a_training_of_no_steps_leaves_the_draft_as_it_was_given(trained, write_config, tmp_path):
    run(tmp_path / "run.toml")
    path, known = write_config(0, "next"), tmp_path / "run" / "model"
    said = path.read_text().replace("draft = 12", WIDE)
    path.write_text(said.replace("[data]", f'[data]\ndenoiser_from = "{known}"'))
    run(path)
    models = known, tmp_path / "next" / "model"
    one, two = (load_model(folder).denoiser.draft.state_dict() for folder in models)
    assert one["wide.weight"].any()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_model_has_the_draft_that_learned_on_after_its_unet(write_config, tmp_path):
    model = tmp_path / "run" / "model"
    path = write_config(4)
    path.write_text(path.read_text().replace("draft = 12", WIDE))
    run(path)
    before = load_model(model).denoiser
    path.write_text(path.read_text().replace("steps = 4", "steps = 8"))
    for stage in ("draft", "wide_draft", "model"):
        run(path, stage)
    now = load_model(model).denoiser
    learned = Training(read_training_config(path)).denoiser(trained=False).draft
    assert torch.equal(now.draft.cosines.length, learned.cosines.length.half().float())
    assert not torch.equal(now.draft.wide.weight, before.draft.wide.weight)
    assert torch.equal(now.network.conv_in.weight, before.network.conv_in.weight)
