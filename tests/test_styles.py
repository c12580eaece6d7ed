"""A model that knows styles: what becomes of sentences that name none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.testing import build_micro_adapter

STYLE = "卡通"


@pytest.fixture(scope="module")
def styled(micro_model_folder: Path) -> RapidDiffusionPipeline:
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipe.model.card = replace(pipe.model.card, styles=f"{STYLE} 扁平")
    return pipe


def drawn(pipe: RapidDiffusionPipeline, prompt: str) -> np.ndarray:
    return pipe(prompt, seed=1, output_type="numpy").images


def test_a_sentence_without_a_style_is_told_the_default_one(styled: RapidDiffusionPipeline) -> None:
    assert np.array_equal(drawn(styled, "老虎"), drawn(styled, f"老虎，{STYLE}"))
    assert styled("老虎").parameters["style"] == STYLE


def test_a_sentence_that_names_a_style_keeps_it(
    styled: RapidDiffusionPipeline, micro_pipeline: RapidDiffusionPipeline
) -> None:
    prompt = "扁平的老虎"
    assert np.array_equal(drawn(styled, prompt), drawn(micro_pipeline, prompt))
    assert "style" not in styled(prompt).parameters


def test_the_parameters_of_a_result_draw_it_again(styled: RapidDiffusionPipeline) -> None:
    for wish in (None, "", "大红", STYLE):
        first = styled(["老虎", "扁平的猫"], seed=1, style=wish, output_type="numpy")
        told = first.parameters
        again = styled(["老虎", "扁平的猫"], seed=first.seeds, output_type="numpy", **told)
        assert np.array_equal(first.images, again.images)
        assert again.parameters == told


def test_a_style_may_be_asked_for_or_left_out(
    styled: RapidDiffusionPipeline, micro_pipeline: RapidDiffusionPipeline
) -> None:
    assert styled.request("老虎", style="大红").prompts == ("老虎，大红",)
    assert styled.request("扁平的老虎", style="大红").prompts == ("扁平的老虎",)
    assert styled.request("老虎", style="").prompts == ("老虎",)
    assert micro_pipeline.request("老虎", style="大红").prompts == ("老虎，大红",)


def test_a_style_takes_no_room_from_the_sentence(styled: RapidDiffusionPipeline) -> None:
    room = styled.model.tokenizer.max_length - 2
    full = styled.request("虎" * room)
    assert (full.prompts, full.style) == (("虎" * room,), None)
    fits = styled.request("虎" * (room - len(STYLE) - 1))
    assert len(fits.prompts[0]) == room


def test_an_adapter_is_told_no_style(
    styled: RapidDiffusionPipeline, micro_model_folder: Path, tmp_path: Path
) -> None:
    name = styled.load_adapter(build_micro_adapter(tmp_path / "adapter", micro_model_folder))
    assert styled.request("老虎", adapter=name).prompts == ("老虎",)


def test_a_model_without_styles_adds_nothing(micro_pipeline: RapidDiffusionPipeline) -> None:
    assert micro_pipeline.styles == []
    assert micro_pipeline.request("老虎").prompts == ("老虎",)


@pytest.mark.parametrize("name", ["emoji-zh", "emoji-zh-4"])
def test_the_shipped_models_know_their_styles(name: str) -> None:
    pipe = RapidDiffusionPipeline.from_pretrained(name)
    assert pipe.styles[0] in pipe.request("一只小猫").prompts[0]
    for style in ("贴纸", "卡通", "扁平", "渐变", "三维", "圆润", "复古"):
        assert pipe.request(f"{style}的猫").style is None
