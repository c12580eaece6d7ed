"""Best of several: what is drawn, what is chosen, and what the result says of it."""

import json
import shutil

import numpy as np
import pytest
import torch

from rapid_diffusion import (
    CheckpointError,
    InvalidRequestError,
    NumericalError,
    RapidDiffusionPipeline,
    cli,
)
from rapid_diffusion.candidates import candidate_seed
from rapid_diffusion.checkpoints.folder import read_json, read_weights, write_json, write_weights
from rapid_diffusion.model_folder import load_model

TIGER = "三维立体风格的老虎"
PROMPTS = [TIGER, "一个红苹果", "卡通猫"]


@pytest.fixture(scope="module")
def chosen(micro_pipeline):
    """The best of three for each prompt, at the size of the drawing."""
    return micro_pipeline(PROMPTS, seed=5, num_candidates=3, upscale=1, output_type="numpy")


def test_the_best_scored_candidate_is_the_one_returned(micro_pipeline, chosen):
    for place, found in enumerate(chosen.candidates):
        assert found.scores[found.chosen] == max(found.scores)
        seeds = [one.seeds[found.chosen] for one in chosen.candidates]
        again = micro_pipeline(PROMPTS, seed=seeds, upscale=1, output_type="numpy")
        assert np.array_equal(again.images[place], chosen.images[place])
    assert chosen.seeds == [found.seed for found in chosen.candidates]
    assert any(found.chosen for found in chosen.candidates)


def test_the_first_candidate_is_the_picture_of_a_call_without_candidates(micro_pipeline, chosen):
    single = micro_pipeline(PROMPTS, seed=5, upscale=1)
    assert [found.seeds[0] for found in chosen.candidates] == single.seeds == [5, 6, 7]
    scores = micro_pipeline.score(single.images, PROMPTS)
    first = [found.scores[0] for found in chosen.candidates]
    assert scores.tolist() == pytest.approx(first, abs=0.02)  # pixels are rounded to 256 levels


def test_one_candidate_is_todays_picture_to_the_bit_and_nothing_is_scored(micro_pipeline):
    one = micro_pipeline(TIGER, seed=1, num_candidates=1, output_type="numpy")
    assert np.array_equal(one.images, micro_pipeline(TIGER, seed=1, output_type="numpy").images)
    assert (one.candidates, one.seeds, "score" in one.timings) == ([], [1], False)


def test_the_chosen_seed_alone_draws_the_chosen_picture(micro_pipeline):
    best = micro_pipeline(TIGER, seed=1, num_candidates=4, output_type="numpy")
    alone = micro_pipeline(TIGER, seed=best.seeds, output_type="numpy", **best.parameters)
    assert np.array_equal(best.images, alone.images)


def test_seeds_of_candidates_follow_from_the_pictures_seed_alone(chosen):
    seeds = [candidate_seed(5, place) for place in range(16)]
    assert seeds[:3] == list(chosen.candidates[0].seeds)
    assert (seeds[0], len(set(seeds))) == (5, 16)
    assert candidate_seed(5, 1) == 1_059_456_005


def test_rows_choose_each_for_itself(micro_pipeline, chosen):
    rows = micro_pipeline.render(PROMPTS, seed=5, num_candidates=3, upscale=1, output_type="numpy")
    for place, row in enumerate(rows):
        assert row.candidates == chosen.candidates[place : place + 1]
        assert np.array_equal(row.images[0], chosen.images[place])


@pytest.mark.parametrize("count", [0, 17, True, 2.0, None])
def test_a_number_of_candidates_out_of_range_is_named(micro_pipeline, count):
    with pytest.raises(InvalidRequestError) as caught:
        micro_pipeline(TIGER, num_candidates=count)
    assert caught.value.field == "num_candidates"


@pytest.fixture
def folder(micro_model_folder, tmp_path):
    """A model folder that a test may spoil."""
    return shutil.copytree(micro_model_folder, tmp_path / "model")


def test_a_model_without_an_image_tower_draws_but_neither_scores_nor_chooses(folder):
    shutil.rmtree(folder / "image_tower")
    index = read_json(folder / "model_index.json")
    index["components"].remove("image_tower")
    write_json(folder / "model_index.json", index)
    pipe = RapidDiffusionPipeline.from_pretrained(folder)
    picture = pipe(TIGER, seed=1, num_inference_steps=1, upscale=1)
    assert pipe.most_candidates == 1
    with pytest.raises(InvalidRequestError, match=r"num_candidates.*no image tower"):
        pipe(TIGER, num_candidates=2)
    with pytest.raises(InvalidRequestError, match="no image tower"):
        pipe.score(picture.images, TIGER)


def test_a_nan_in_the_image_tower_chooses_nothing(micro_model_folder):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipe.model.pair.image_projection.weight.data.fill_(torch.nan)
    with pytest.raises(NumericalError, match="image_tower"):
        pipe(TIGER, num_candidates=2, num_inference_steps=1)


@pytest.mark.parametrize("spoil", ["unexpected", "missing", "config"])
def test_an_image_tower_that_does_not_fit_is_refused(folder, spoil):
    tower = folder / "image_tower"
    weights = read_weights(tower)
    if spoil == "unexpected":
        weights["text.extra"] = torch.zeros(1)
    if spoil == "missing":
        del weights["text_projection.weight"]
    write_weights(weights, tower / "model.safetensors")
    if spoil == "config":
        write_json(tower / "config.json", read_json(tower / "config.json") | {"widths": [8, "8"]})
    with pytest.raises(CheckpointError, match="image_tower"):
        load_model(folder)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_an_image_tower_scores_the_same_after_saving(micro_pipeline, tmp_path, storage):
    micro_pipeline.save_pretrained(tmp_path / "copy", storage)
    copy = RapidDiffusionPipeline.from_pretrained(tmp_path / "copy")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ours, theirs = (pipe.score(images, PROMPTS) for pipe in (micro_pipeline, copy))
    assert torch.allclose(ours, theirs, atol=0.0 if storage == "float32" else 0.05)


def test_a_score_is_the_same_for_tensors_pixels_and_pictures(micro_pipeline):
    result = micro_pipeline(PROMPTS, seed=1, upscale=1)
    pixels = np.stack([np.asarray(image) for image in result.images])
    unit = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    scores = micro_pipeline.score(result.images, PROMPTS)
    assert scores.shape == (3,)
    assert bool((scores.abs() <= 1).all())
    assert torch.equal(scores, micro_pipeline.score(pixels, PROMPTS))
    assert torch.allclose(scores, micro_pipeline.score(unit, PROMPTS))
    assert micro_pipeline.score(pixels, TIGER)[0] == pytest.approx(float(scores[0]), abs=1e-5)


@pytest.mark.parametrize(
    ("images", "prompts", "field"),
    [
        (torch.zeros(2, 3, 8, 8), PROMPTS, "prompts"),
        (torch.full((1, 3, 8, 8), 2.0), TIGER, "images"),
        (torch.full((1, 3, 8, 8), torch.nan), TIGER, "images"),
        (np.zeros((8, 8, 3), np.uint8), TIGER, "images"),
        ([], TIGER, "images"),
        (torch.zeros(1, 3, 8, 8), "", "prompt"),
    ],
)
def test_what_cannot_be_scored_is_named(micro_pipeline, images, prompts, field):
    with pytest.raises(InvalidRequestError) as caught:
        micro_pipeline.score(images, prompts)
    assert caught.value.field == field


def test_the_command_line_names_the_chosen_seed(micro_model_folder, tmp_path, capsys):
    command = ["generate", TIGER, "--model", str(micro_model_folder), "-o", str(tmp_path)]
    assert cli.run([*command, "--seed", "3", "--steps", "1", "--candidates", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    choice = facts["candidates"]
    assert (choice["count"], choice["seeds"][0]) == (3, 3)
    assert facts["seed"] == choice["seeds"][choice["chosen"]]
    assert facts["file"].endswith(f"0000-{facts['seed']}.png")
