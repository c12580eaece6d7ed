"""One pipeline for many threads: calls share the UNet, and each draws what it draws alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rapid_diffusion import (
    CanceledError,
    Cancellation,
    InvalidRequestError,
    RapidDiffusionPipeline,
    in_float32,
)
from rapid_diffusion.attention import attention
from rapid_diffusion.testing import build_micro_adapter

CALLS = [
    {"prompt": "卡通风格的老虎", "seed": 1, "guidance_scale": 5.0},
    {"prompt": "猫", "seed": 2, "num_inference_steps": 9, "scheduler": "dpmpp_2m_sde"},
    {"prompt": "红苹果", "seed": 3, "guidance_scale": 1.0, "upscale": 1},
    {"prompt": "扁平风格的猫", "seed": 4, "num_images_per_prompt": 3, "num_inference_steps": 3},
    {"prompt": "三维立体风格的大红苹果", "seed": 5, "num_candidates": 2},
]


def pixels(pipe, call):
    return pipe(**call, output_type="numpy").images


@pytest.fixture
def pipe(micro_model_folder, micro_adapter_folder):
    pipeline = RapidDiffusionPipeline.from_pretrained(micro_model_folder).share_engine(rows=8)
    pipeline.load_adapter(micro_adapter_folder, "ink")
    return pipeline


class Company:
    """Holds the UNet's first call until `count` callers share the engine; counts the calls."""

    def __init__(self, pipe, count):
        self.engine, self.count, self.calls = pipe.engine, count, 0
        pipe.model.denoiser.register_forward_pre_hook(self)

    def __call__(self, *_):
        while not self.calls and len(self.engine.turns._calls) < self.count:
            threading.Event().wait(0.001)
        self.calls += 1


def test_calls_in_any_company_draw_the_bits_they_draw_alone(pipe):
    alone = [pixels(pipe, call) for call in CALLS]
    for turn in range(2):
        order = np.random.default_rng(turn).permutation(len(CALLS) * 3) % len(CALLS)
        with ThreadPoolExecutor(5) as pool:
            drawn = list(pool.map(lambda place: pixels(pipe, CALLS[place]), order))
        for place, images in zip(order, drawn, strict=True):
            assert np.array_equal(images, alone[place])


def test_four_calls_at_once_take_about_as_many_steps_as_one(pipe):
    call = {"prompt": "老虎", "num_inference_steps": 6}
    company = Company(pipe, 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: pixels(pipe, call | {"seed": seed}), range(4)))
    assert company.calls <= 8  # 24 one after the other


def test_more_pictures_than_rows_are_drawn_and_every_step_is_told(pipe):
    pipe.share_engine(rows=2)
    told = []
    result = pipe(
        "老虎",
        seed=1,
        num_images_per_prompt=3,
        output_type="numpy",
        callback_on_step_end=lambda step, steps, latents: told.extend([step] * len(latents)),
    )
    assert sorted(told) == [step for step in range(4) for _ in range(3)]
    for seed, images in zip(result.seeds, result.images, strict=True):
        lone = pixels(pipe, {"prompt": "老虎", "seed": seed})[0]
        assert np.array_equal(images, lone)


def test_adapters_in_turn_and_at_once_draw_the_bits_of_lone_calls(
    pipe, micro_model_folder, tmp_path
):
    pipe.load_adapter(build_micro_adapter(tmp_path / "two", micro_model_folder, seed=2), "oil")
    wishes = [{}, {"adapter": "ink"}, {"adapter": "oil"}, {"adapter": "ink", "adapter_scale": 0.5}]
    calls = [call | wish for call in CALLS[:2] for wish in wishes]
    alone = [pixels(pipe, call) for call in calls]
    assert len({images.tobytes() for images in alone}) == len(calls)
    order = np.random.default_rng(0).permutation(len(calls) * 2) % len(calls)
    with ThreadPoolExecutor(6) as pool:
        drawn = list(pool.map(lambda place: pixels(pipe, calls[place]), order))
        base = pool.submit(pixels, pipe, calls[0])
    for place, images in zip(order, drawn, strict=True):
        assert np.array_equal(images, alone[place])
    assert np.array_equal(base.result(), alone[0])


def test_scores_and_saved_weights_are_the_bases_while_an_adapter_draws(pipe):
    image = pixels(pipe, CALLS[0] | {"upscale": 1})
    wanted, inside, scored = pipe.score(image, "老虎"), threading.Event(), []

    def while_drawing(step, *_):
        inside.set()

    with ThreadPoolExecutor(2) as pool:
        drawing = pool.submit(
            pipe, **CALLS[1], adapter="ink", callback_on_step_end=while_drawing, output_type="numpy"
        )
        assert inside.wait(60)
        scored = pool.submit(pipe.score, image, "老虎").result(60)
        drawing.result(60)
    assert torch.equal(scored, wanted)


def test_a_canceled_call_leaves_its_neighbours_their_bits(pipe):
    alone = [pixels(pipe, call) for call in CALLS[:2]]
    cancellation = Cancellation()

    def in_vain():
        long = {"prompt": "猫", "seed": 9, "num_inference_steps": 100}
        with cancellation.watching():
            pipe(**long, callback_on_step_end=lambda step, *_: step < 3 or cancellation.cancel())

    with ThreadPoolExecutor(3) as pool:
        canceled = pool.submit(in_vain)
        drawn = list(pool.map(lambda call: pixels(pipe, call), CALLS[:2]))
        with pytest.raises(CanceledError):
            canceled.result(60)
    assert all(map(np.array_equal, drawn, alone))
    assert not pipe.engine.busy


def test_rows_are_two_on_a_cpu_and_one_is_too_few(pipe):
    assert pipe.share_engine().engine.rows == 2
    assert pipe.to("cpu").engine.rows == 2
    assert pipe.share_engine("fit").engine.rows == "fit"
    with pytest.raises(InvalidRequestError, match="rows"):
        pipe.share_engine(1)


def test_the_pinned_kernel_leaves_the_switches_of_the_process_alone(monkeypatch):
    def refuse(*_):
        raise AssertionError("switched for all threads")

    for name in ("flash", "math", "mem_efficient"):
        monkeypatch.setattr(torch._C, f"_set_sdp_use_{name}", refuse)
    query = torch.randn(1, 2, 3, 4)
    assert attention(query, query, query, backend="sdpa-flash").shape == query.shape


def test_pictures_may_be_asked_for_in_float32(micro_model_folder):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder, dtype=torch.bfloat16)
    asked = {"prompt": "老虎", "seed": 1, "upscale": 1, "output_type": "numpy"}
    narrow = pipe(**asked).images
    with in_float32():
        precise = pipe(**asked).images
    wide = pipe.to("cpu", torch.float32)(**asked).images
    assert np.array_equal(precise, wide)
    assert not np.array_equal(narrow, wide)
