"""The stations together: what the same seed gives, what knowledge changes, what a result says."""

import subprocess
import sys
from itertools import islice, repeat

import numpy as np
import pytest
import torch
from PIL import Image

from rapid_diffusion import (
    CanceledError,
    CheckpointError,
    EntityWeight,
    InvalidRequestError,
    NumericalError,
    RapidDiffusionPipeline,
)

PROMPTS = ["三维立体风格的老虎", "一个红苹果", "卡通猫", "大虫，扁平风格"]
STATIONS = ["text", "denoise", "decode", "upscale"]


@pytest.fixture(scope="module")
def draw(micro_pipeline):
    """Pixels of a call, (N, H, W, 3)."""

    def pixels(prompt, **parameters):
        return micro_pipeline(prompt, output_type="numpy", **parameters).images

    return pixels


@pytest.fixture
def own_pipeline(micro_model_folder):
    """A pipeline that a test may spoil."""
    return RapidDiffusionPipeline.from_pretrained(micro_model_folder)


DRAW_IN_ANOTHER_PROCESS = """
import sys
from rapid_diffusion import RapidDiffusionPipeline
pipe = RapidDiffusionPipeline.from_pretrained(sys.argv[1])
sys.stdout.buffer.write(pipe(sys.argv[2:], seed=7, output_type="numpy").images.tobytes())
"""


def test_the_same_seed_gives_the_same_pixels_in_another_process(draw, micro_model_folder):
    command = [sys.executable, "-c", DRAW_IN_ANOTHER_PROCESS, str(micro_model_folder), *PROMPTS]
    run = subprocess.run(command, capture_output=True, check=True)
    assert run.stdout == draw(PROMPTS, seed=7).tobytes()


def test_a_picture_does_not_depend_on_its_place_or_its_neighbours(draw):
    pictures = draw(PROMPTS, seed=[1, 2, 3, 4])
    assert np.array_equal(draw(PROMPTS[::-1], seed=[4, 3, 2, 1])[::-1], pictures)
    others = draw([PROMPTS[3], PROMPTS[1], PROMPTS[3], PROMPTS[3]], seed=[9, 2, 8, 7])
    assert np.array_equal(others[1], pictures[1])
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_seeds_count_up_from_picture_to_picture(micro_pipeline):
    result = micro_pipeline(PROMPTS[:2], num_images_per_prompt=2, seed=5, output_type="numpy")
    assert result.seeds == [5, 6, 7, 8]
    named = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    again = micro_pipeline(named, seed=result.seeds, output_type="numpy")
    assert np.array_equal(result.images, again.images)
    assert (len(result.links), len(again.links)) == (2, 4)


def test_more_pictures_than_a_batch_come_in_order(micro_pipeline, draw):
    result = micro_pipeline(PROMPTS * 3, seed=0, num_inference_steps=1, output_type="numpy")
    assert result.seeds == list(range(12))
    last = draw((PROMPTS * 3)[8:], seed=8, num_inference_steps=1)
    assert np.array_equal(result.images[8:], last)


def test_drawn_seeds_are_returned_and_a_generator_repeats_them(micro_pipeline):
    def seeds():
        return micro_pipeline(PROMPTS[:2], generator=torch.Generator().manual_seed(3)).seeds

    assert seeds() == seeds()
    assert micro_pipeline(PROMPTS[0]).seeds != micro_pipeline(PROMPTS[0]).seeds


def test_guidance_1_is_no_guidance_whatever_the_negative_prompt(draw):
    plain = draw(PROMPTS[0], seed=1, guidance_scale=1)
    assert np.array_equal(draw(PROMPTS[0], seed=1, guidance_scale=1.0, negative_prompt="猫"), plain)
    guided = draw(PROMPTS[0], seed=1, guidance_scale=3, negative_prompt="猫")
    assert not np.array_equal(guided, plain)
    assert not np.array_equal(guided, draw(PROMPTS[0], seed=1, guidance_scale=3))


def test_knowledge_of_weight_0_is_no_knowledge_to_the_bit(draw):
    without = draw(PROMPTS[0], seed=1, knowledge=False)
    assert np.array_equal(draw(PROMPTS[0], seed=1, knowledge=[EntityWeight("老虎", 0.0)]), without)
    assert np.array_equal(draw(PROMPTS[0], seed=1, knowledge=[]), without)
    assert not np.array_equal(draw(PROMPTS[0], seed=1), without)


def test_zero_entity_vectors_are_no_knowledge_to_the_bit(micro_pipeline):
    request = micro_pipeline.request(PROMPTS[:1], seed=1)
    linked = micro_pipeline.tokenize(PROMPTS[:1], [micro_pipeline.link(request)[PROMPTS[0]]])
    assert linked.entity_vectors.any()
    linked.entity_vectors.zero_()
    plain = micro_pipeline.encode_text(micro_pipeline.tokenize(PROMPTS[:1]))
    assert torch.equal(micro_pipeline.encode_text(linked).hidden, plain.hidden)


def test_naming_what_would_be_found_draws_the_same(draw):
    named = [EntityWeight("老虎", start=PROMPTS[0].index("老虎"), end=len(PROMPTS[0]))]
    assert np.array_equal(draw(PROMPTS[0], seed=1, knowledge=named), draw(PROMPTS[0], seed=1))


def test_the_negative_prompt_takes_the_same_road(micro_pipeline):
    request = micro_pipeline.request("一个画", negative_prompt="大虫")
    assert [link.key for link, _ in micro_pipeline.link(request)["大虫"]] == ["老虎"]
    assert micro_pipeline.link(request, False)["大虫"] == []


def test_a_result_says_what_was_done(micro_pipeline):
    result = micro_pipeline(["大虫" + "画" * 20, "画"], seed=1, num_inference_steps=2, upscale=1)
    assert [image.size for image in result.images] == [(16, 16)] * 2
    assert all(isinstance(image, Image.Image) for image in result.images)
    assert [[link.key for link in links] for links in result.links] == [["老虎"], []]
    assert result.truncated == [14, None]
    assert result.unknown == [[], []]
    assert list(result.timings) == STATIONS
    assert all(seconds >= 0 for seconds in result.timings.values())
    wished = {"num_inference_steps": 2, "upscale": 1}
    assert result.parameters == {"negative_prompt": ""} | micro_pipeline.default_parameters | wished


def test_numpy_output_is_the_same_pixels(micro_pipeline, draw):
    pixels = draw(PROMPTS[0], seed=1)
    assert (pixels.shape, pixels.dtype) == ((1, 64, 64, 3), np.uint8)
    assert np.array_equal(np.asarray(micro_pipeline(PROMPTS[0], seed=1).images[0]), pixels[0])


def test_stations_can_be_walked_one_by_one(micro_pipeline, draw):
    request = micro_pipeline.request(PROMPTS, seed=3)
    links = micro_pipeline.link(request)
    tokens = micro_pipeline.tokenize(PROMPTS, [links[text] for text in PROMPTS])
    states, guidance = micro_pipeline.encode_text(tokens), micro_pipeline.guidance(request, links)
    latents = micro_pipeline.denoise(micro_pipeline.noise(request), states, request, guidance)
    # A call decodes and enlarges each picture alone, for in a batch last bits are others.
    alone = [micro_pipeline.decode(row[None]) for row in latents]
    images = torch.cat([micro_pipeline.enlarge(image, request.upscale) for image in alone])
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, draw(PROMPTS, seed=3))


def test_an_error_in_the_callback_stops_the_call(micro_pipeline):
    def stop(step, steps, latents):
        raise CanceledError(f"{step} of {steps}")

    with pytest.raises(CanceledError, match="0 of 3"):
        micro_pipeline("猫", num_inference_steps=3, callback_on_step_end=stop)


@pytest.mark.parametrize("part", ["denoiser", "autoencoder", "upscaler", "text_encoder"])
def test_a_nan_in_any_network_is_a_numerical_error(own_pipeline, part):
    weights = getattr(own_pipeline.model, part).state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    with pytest.raises(NumericalError):
        own_pipeline("猫", seed=1, num_inference_steps=1)


def test_render_gives_one_result_a_row_and_the_same_as_calls(micro_pipeline, draw):
    rows = [*PROMPTS, {"prompt": "猫", "seed": 99}]
    results = list(micro_pipeline.render(rows, seed=20, output_type="numpy"))
    called = draw([*PROMPTS, "猫"], seed=[20, 21, 22, 23, 99])
    assert np.array_equal(np.concatenate([result.images for result in results]), called)
    assert [result.seeds for result in results] == [[20], [21], [22], [23], [99]]
    assert [link.key for link in results[3].links[0]] == ["老虎"]


def test_render_draws_several_pictures_a_row(micro_pipeline, draw):
    results = list(micro_pipeline.render(PROMPTS, num_images_per_prompt=3, seed=0))
    assert [result.seeds for result in results] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert [len(result.images) for result in results] == [3, 3, 3, 3]


def test_render_reads_no_further_than_it_must(micro_pipeline):
    endless = micro_pipeline.render(
        repeat("猫"), num_inference_steps=1, generator=torch.Generator()
    )
    assert len(list(islice(endless, 3))) == 3


@pytest.mark.parametrize("row", [5, None, {}, {"text": "猫"}, {"prompt": "猫", "steps": 3}, " "])
def test_render_names_the_row_it_cannot_draw(micro_pipeline, row):
    with pytest.raises(InvalidRequestError, match=r"rows\[1\]"):
        list(micro_pipeline.render(["猫", row]))


def test_saving_and_opening_gives_the_same_pixels(micro_pipeline, draw, tmp_path):
    micro_pipeline.save_pretrained(tmp_path / "copy")
    copy = RapidDiffusionPipeline.from_pretrained(tmp_path / "copy")
    assert np.array_equal(copy(PROMPTS, seed=1, output_type="numpy").images, draw(PROMPTS, seed=1))
    assert copy.digest == micro_pipeline.digest != ""


@pytest.mark.parametrize(("storage", "most"), [("float16", 2), ("int8", 8)])
def test_narrow_storage_draws_nearly_the_same(micro_pipeline, draw, tmp_path, storage, most):
    micro_pipeline.save_pretrained(tmp_path / "copy", storage)
    copy = RapidDiffusionPipeline.from_pretrained(tmp_path / "copy")
    narrow = copy(PROMPTS, seed=1, output_type="numpy").images.astype(int)
    assert np.abs(narrow - draw(PROMPTS, seed=1)).mean() < most


def test_half_precision_draws_nearly_the_same(micro_model_folder, draw):
    half = RapidDiffusionPipeline.from_pretrained(micro_model_folder, dtype=torch.bfloat16)
    assert half.model.denoiser.network.dtype == torch.bfloat16
    pixels = half(PROMPTS, seed=1, output_type="numpy").images.astype(int)
    assert np.abs(pixels - draw(PROMPTS, seed=1)).mean() < 8


def test_a_pipeline_opened_without_knowledge_has_no_graph(micro_model_folder, draw):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder, knowledge=False)
    assert pipe.graph is None
    pixels = pipe(PROMPTS, seed=1, output_type="numpy").images
    assert np.array_equal(pixels, draw(PROMPTS, seed=1, knowledge=False))


def test_another_graph_can_take_the_place_of_the_folders_own(micro_model_folder):
    own = micro_model_folder / "knowledge"
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder, knowledge=own)
    assert pipe.graph is not None
    with pytest.raises(CheckpointError, match="nowhere"):
        RapidDiffusionPipeline.from_pretrained(micro_model_folder, knowledge="nowhere")


@pytest.mark.parametrize(
    ("field", "value"), [("device", "tpu:9"), ("device", "meta"), ("dtype", torch.int8)]
)
def test_a_device_or_number_format_that_is_not_there_is_refused(micro_model_folder, field, value):
    with pytest.raises(InvalidRequestError) as caught:
        RapidDiffusionPipeline.from_pretrained(micro_model_folder, **{field: value})
    assert caught.value.field == field
