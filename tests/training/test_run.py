"""All stages in order, from a data set to a folder that the pipeline opens."""

import re
import shutil

import numpy as np
import pytest
import torch

from knowledge.builder import BuildOptions, build_version
from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.model_folder import load_model
from rapid_diffusion.testing import ALIASES, TRIPLES
from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.loop import averaged_weights
from rapid_diffusion.training.run import Training, run
from rapid_diffusion.training.stages import stage_folder

SPREAD = "draft = 12\ndraft_rank = 6\ndraft_spread = true"
WIDE = "draft = 12\ndraft_rank = 6\ndraft_cosines = 30"


@pytest.mark.parametrize("draft", ["draft = 12", SPREAD, WIDE], ids=["plain", "spread", "wide"])
def test_a_training_ends_in_a_model_that_draws(write_config, tmp_path, draft):
    path = write_config(steps=2)
    path.write_text(path.read_text().replace("draft = 12", draft))
    run(path)
    pipe = RapidDiffusionPipeline.from_pretrained(tmp_path / "run" / "model")
    result = pipe("卡通风格的大虫", seed=1)
    assert result.images[0].size == (64, 64)
    assert [link.key for link in result.links[0]] == ["老虎"]
    assert (pipe.name, pipe.upscales) == ("tiny", [1, 2])


BEFORE = {
    "text": [],
    "draft": ["text", "autoencoder"],
    "diffusion": ["text", "autoencoder", "draft"],
    "super_resolution": ["autoencoder"],
}


@pytest.mark.parametrize("stage", sorted(BEFORE))
def test_a_stage_in_two_parts_is_that_stage_in_one(write_config, tmp_path, stage):
    """Each `run` makes its objects anew, as another process would."""
    for output, steps in (("whole", [4]), ("parts", [2, 4])):
        for earlier in BEFORE[stage]:
            run(write_config(1, output), earlier)
        for last in steps:
            run(write_config(last, output), stage)
    folders = [stage_folder(tmp_path / output, stage) for output in ("whole", "parts")]
    one, two = map(averaged_weights, folders)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_draft_stays_what_it_was_while_the_unet_learns(write_config, tmp_path):
    path = write_config(3)
    for stage in ("text", "autoencoder", "draft", "diffusion"):
        run(path, stage)
    draft, denoiser = (
        averaged_weights(stage_folder(tmp_path / "run", name)) for name in ("draft", "diffusion")
    )
    assert all(torch.equal(value, denoiser[f"draft.{name}"]) for name, value in draft.items())


def test_stages_begin_with_the_weights_of_the_model_that_is_named(write_config, tmp_path):
    run(write_config(1))
    known = tmp_path / "run" / "model"
    path = write_config(0, "next")
    begun = "".join(f'\n{part}_from = "{known}"' for part in ("text", "denoiser", "upscaler"))
    said = path.read_text().replace("[data]", f"[data]{begun}")
    path.write_text(re.sub(r"large_pictures = .*", 'large_pictures = "none.npy"', said))
    run(path)
    one, two = (
        RapidDiffusionPipeline.from_pretrained(tmp_path / name / "model").model
        for name in ("run", "next")
    )
    upscalers = one.upscaler.network, two.upscaler.network
    autoencoders = one.autoencoder, two.autoencoder
    denoisers = one.denoiser, two.denoiser
    for before, after in ((one.pair, two.pair), autoencoders, denoisers, upscalers):
        weights = after.state_dict()
        known_weights = before.state_dict().items()
        assert [
            name for name, value in known_weights if not torch.equal(value, weights[name])
        ] == []


def test_a_draft_of_other_sizes_begins_anew_below_the_unet_of_the_model_that_is_named(
    write_config, tmp_path, caplog
):
    run(write_config(1))
    known = tmp_path / "run" / "model"
    path = write_config(0, "next")
    said = path.read_text().replace("[data]", f'[data]\ndenoiser_from = "{known}"')
    path.write_text(said.replace("draft = 12", WIDE))
    run(path)
    assert "has a draft of other sizes" in caplog.text
    one, two = (
        load_model(tmp_path / name / "model").denoiser.network.state_dict()
        for name in ("run", "next")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_text_tower_takes_along_the_word_pieces_that_both_models_know(
    write_config, data_folder, tmp_path
):
    run(write_config(1))
    other = tmp_path / "other"
    shutil.copytree(data_folder, other)
    lines = (other / "metadata.jsonl").read_text(encoding="utf-8")
    (other / "metadata.jsonl").write_text(lines.replace("一个", "红鸟"), encoding="utf-8")
    known = tmp_path / "run" / "model"
    path = write_config(0, "next", other)
    path.write_text(path.read_text().replace("[data]", f'[data]\ntext_from = "{known}"'))
    run(path)
    one, two = (load_model(tmp_path / name / "model") for name in ("run", "next"))
    pieces = [model.tokenizer.tokenizer.get_vocab() for model in (one, two)]
    weights = [model.text_encoder.tower.get_input_embeddings().weight for model in (one, two)]
    assert "鸟" not in pieces[0]
    assert pieces[0] != pieces[1]
    for piece in pieces[0].keys() & pieces[1].keys():
        assert torch.equal(weights[1][pieces[1][piece]], weights[0][pieces[0][piece]])
    assert torch.equal(one.pair.image_projection.weight, two.pair.image_projection.weight)


def test_towers_of_other_sizes_are_named(write_config):
    path = write_config(1)
    path.write_text(path.read_text().replace("[data]", '[data]\ntext_from = "emoji-zh"'))
    with pytest.raises(CheckpointError, match="emoji-zh"):
        run(path, "text")


def with_draft_folder(path, folder):
    """The configuration, its draft also learning from `folder`."""
    path.write_text(path.read_text().replace("[data]", f'[data]\ndraft_folder = "{folder}"'))
    return path


def test_the_draft_alone_learns_from_the_draft_folder(write_config, data_folder, tmp_path):
    """The stages before and after it come out the same as without that folder."""
    beside = tmp_path / "beside"
    beside.mkdir()
    np.save(beside / "small.npy", 255 - np.load(data_folder / "small.npy")[:3])
    lines = (data_folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (beside / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(write_config(3, "without"))
    run(with_draft_folder(write_config(3, "with"), beside))
    weights = {
        stage: [
            averaged_weights(stage_folder(tmp_path / name, stage)) for name in ("without", "with")
        ]
        for stage in ("text", "autoencoder", "draft", "super_resolution")
    }
    changed = {
        stage
        for stage, (one, two) in weights.items()
        if any(not torch.equal(one[name], two[name]) for name in one)
    }
    assert changed == {"draft"}


def test_a_draft_folder_that_is_not_there_is_named_before_anything_learns(write_config, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.metadata\.jsonl"):
        Training(read_training_config(with_draft_folder(write_config(1), tmp_path / "nowhere")))
    path = with_draft_folder(write_config(1), tmp_path)
    path.write_text(path.read_text().replace("[data]", '[data]\nshards = "*.tar"'))
    with pytest.raises(InvalidRequestError, match=r"data\.draft_folder.*not with `shards`"):
        Training(read_training_config(path))


def test_draft_pictures_of_another_size_are_named(write_config, data_folder, tmp_path):
    (tmp_path / "beside").mkdir()
    np.save(tmp_path / "beside" / "small.npy", np.zeros((12, 16, 16, 3), np.uint8))
    shutil.copy(data_folder / "metadata.jsonl", tmp_path / "beside")
    path = with_draft_folder(write_config(1), tmp_path / "beside")
    for stage in ("text", "autoencoder"):
        run(path, stage)
    with pytest.raises(CheckpointError, match=r"\(16, 16\); those beside them are of \(32, 32\)"):
        run(path, "draft")


def test_a_spread_is_learned_by_the_draft_stage_and_kept_in_the_folder(write_config, tmp_path):
    path = write_config(3)
    path.write_text(path.read_text().replace("draft = 12", SPREAD))
    run(path)
    learned = averaged_weights(stage_folder(tmp_path / "run", "draft"))
    assert learned["log_spread"].all()
    assert learned["places.bias"].all()
    denoiser = load_model(tmp_path / "run" / "model").denoiser
    assert torch.allclose(denoiser.draft.log_spread, learned["log_spread"], rtol=1e-3)
    assert denoiser.network.config.in_channels == 2 * denoiser.channels + 1


def test_without_a_draft_its_stage_has_nothing_to_do(write_config, tmp_path):
    path = write_config()
    path.write_text(
        path.read_text().replace("draft = 12\n", "").replace("[loops.draft]", "[loops.x]")
    )
    run(path)
    assert not stage_folder(tmp_path / "run", "draft").exists()
    assert (
        RapidDiffusionPipeline.from_pretrained(tmp_path / "run" / "model").model.denoiser.draft
        is None
    )


def test_a_graph_without_vectors_is_trained_first_and_then_used(
    write_config, data_folder, tmp_path
):
    data = shutil.copytree(data_folder, tmp_path / "data")
    shutil.rmtree(data / "graph")
    build_version(TRIPLES, ALIASES, data / "graph", options=BuildOptions(link_objects=True))
    training = Training(read_training_config(write_config(steps=1, folder=data)))
    for stage in ("knowledge", "text"):
        training.train(stage, resume=True)
    assert training.text_config.entity_dimension == 8
    assert training.pair().text.injection.projection.weight.shape == (16, 8)


def test_a_stage_before_its_turn_says_what_to_train_first(write_config):
    with pytest.raises(CheckpointError, match="train this stage first"):
        run(write_config(), "diffusion")
    with pytest.raises(CheckpointError, match="train this stage first"):
        run(write_config(), "model")


def test_an_unknown_stage_and_a_missing_loop_are_named(write_config):
    with pytest.raises(InvalidRequestError, match="stage"):
        run(write_config(), "dreaming")
    path = write_config()
    path.write_text(path.read_text().replace("[loops.text]", "[loops.other]"))
    with pytest.raises(InvalidRequestError, match=r"loops\.text"):
        run(path, "text")
