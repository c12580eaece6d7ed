"""Looking at a picture on its way: the model's own estimate, and not a pixel of it changes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rapid_diffusion import Previews, RapidDiffusionPipeline


def draw(pipe, seed=7, previews=None, **more):
    """The pixels, and the estimates that came."""
    come = []

    def look(step, steps, latents):
        come.extend([] if previews is None else previews.take())

    wishes = {"num_inference_steps": 6, "output_type": "numpy", "callback_on_step_end": look}
    if previews is None:
        return pipe("老虎", seed=seed, **wishes, **more).images, come
    with previews.watching():
        return pipe("老虎", seed=seed, **wishes, **more).images, come


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_looking_changes_no_pixel(micro_pipeline, scheduler):
    plain, _ = draw(micro_pipeline, scheduler=scheduler)
    watched, come = draw(micro_pipeline, previews=Previews([1, 3, 5]), scheduler=scheduler)
    assert np.array_equal(plain, watched)
    assert [estimate.step for estimate in come] == [1, 3, 5]


def test_every_picture_of_a_call_is_shown_under_its_place(micro_pipeline):
    _, come = draw(micro_pipeline, previews=Previews([2]), num_images_per_prompt=3)
    _, alone = draw(micro_pipeline, seed=9, previews=Previews([2]))
    assert [estimate.place for estimate in come] == [0, 1, 2]
    assert torch.allclose(come[2].latents, alone[0].latents, atol=1e-4)


def test_the_estimate_after_the_last_step_is_the_picture(micro_pipeline):
    pixels, come = draw(micro_pipeline, previews=Previews([6]), scheduler="dpmpp_2m", upscale=1)
    shown = micro_pipeline.decode(come[0].latents[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(shown * 255 - pixels[0]).max() < 1


def test_who_does_not_look_is_told_nothing(micro_pipeline):
    watching = Previews([1])
    with watching.watching():
        pass
    assert draw(micro_pipeline)[1] == watching.take() == []


def test_threads_that_share_an_engine_see_their_own_pictures(micro_model_folder):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder).share_engine(4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: draw(pipe, seed, Previews([1, 2, 5])), range(8)))
    for seed, (pixels, come) in enumerate(found):
        plain, _ = draw(pipe, seed)
        _, alone = draw(pipe, seed, Previews([1, 2, 5]))
        assert np.array_equal(pixels, plain)
        assert [e.step for e in come] == [1, 2, 5]
        assert all(torch.equal(a.latents, b.latents) for a, b in zip(come, alone, strict=True))
