"""What a call refuses: each time the parameter is named, before anything is drawn."""

import numpy as np
import pytest
import torch

from rapid_diffusion import InvalidRequestError
from rapid_diffusion.request import MOST_SEED

REFUSED = {
    "prompt": ["", " \n\t　", "\u200b\ufeff", "长" * 100_000, "半\ud83d", "\udc2f", [], ["猫", ""]],
    "negative_prompt": ["长" * 100_000, "半\ud83d", 5, ["猫"]],
    "num_inference_steps": [0, -1, 101, 10**30, 4.0, "4", True, float("nan")],
    "guidance_scale": [-0.1, 30.1, float("nan"), float("inf"), "3", True],
    "height": [0, -16, 15, 17, 16.0, "16", True],
    "width": [8, 1024],
    "num_images_per_prompt": [0, -1, 9, 10**12, 1.0, True, None],
    "seed": [-1, MOST_SEED + 1, 1.0, "1", True, [], [1, 2], [1.0], float("nan"), ["1"], [True]],
    "scheduler": ["", "ddim", 1],
    "upscale": [0, 2, 3, 4.0, True, "4"],
    "output_type": ["pt", None, 1],
    "generator": [1, [torch.Generator()]],
}
CASES = [(field, value) for field, values in REFUSED.items() for value in values]


@pytest.mark.parametrize(("field", "value"), CASES, ids=[f"{f}={v!r:.20}" for f, v in CASES])
def test_what_is_out_of_range_is_refused_by_its_name(micro_pipeline, field, value):
    parameters = {"prompt": "猫", field: value}
    with pytest.raises(InvalidRequestError) as caught:
        micro_pipeline(parameters.pop("prompt"), **parameters)
    assert caught.value.field == field
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("prompt", [None, 5, b"cat", {"prompt": "猫"}, {"猫"}, [None], [b"cat"]])
def test_what_is_no_sentence_is_refused_as_prompt(micro_pipeline, prompt):
    with pytest.raises(InvalidRequestError, match="string") as caught:
        micro_pipeline(prompt)
    assert caught.value.field == "prompt"


def test_seed_and_generator_together_are_refused(micro_pipeline):
    with pytest.raises(InvalidRequestError, match="one of the two"):
        micro_pipeline("猫", seed=1, generator=torch.Generator())


@pytest.mark.parametrize("prompt", ["龘", "🦄☃", "cat", "猫\u0000", "\n猫\t", "长" * 2000])
def test_every_visible_sentence_is_drawn(micro_pipeline, prompt):
    assert len(micro_pipeline(prompt, seed=1, num_inference_steps=1).images) == 1


def test_numbers_of_numpy_are_welcome_and_come_back_as_plain_ones(micro_pipeline):
    result = micro_pipeline(
        ("猫", "画"),
        seed=np.array([3, 4]),
        num_inference_steps=np.int64(1),
        guidance_scale=np.float32(2),
        height=np.int32(16),
        upscale=np.uint8(4),
    )
    assert result.seeds == [3, 4]
    assert {type(value) for value in (*result.seeds, *result.parameters.values())} == {
        int,
        float,
        str,
    }
    assert micro_pipeline("猫", seed=np.int64(5)).seeds == [5]


def test_the_last_seed_is_allowed_where_nothing_counts_past_it(micro_pipeline):
    assert micro_pipeline.request("猫", seed=MOST_SEED).seeds == (MOST_SEED,)
    with pytest.raises(InvalidRequestError, match="seed"):
        micro_pipeline.request(["猫", "画"], seed=MOST_SEED)


def test_nothing_is_drawn_for_a_number_of_pictures_that_is_refused(micro_pipeline):
    with pytest.raises(InvalidRequestError, match="num_images_per_prompt"):
        micro_pipeline("猫", num_images_per_prompt=10**12, generator=torch.Generator())
