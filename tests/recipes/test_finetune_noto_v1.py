"""The style that is never trained on: what its captions say, and how its benchmark counts."""

import json

import torch

from rapid_diffusion.components import EMBEDDED
from recipes.emoji_zh.captions import STYLED
from recipes.emoji_zh.concepts import Concept
from recipes.emoji_zh.finetune_noto_v1 import STYLE, captions_of
from recipes.emoji_zh.pictures import STYLES

TOMATO = Concept("1", "西红柿", ("番茄",), "tomato", "food-drink", "food-vegetable")


def test_every_caption_names_the_style_and_repeats():
    captions = captions_of(TOMATO, ["番茄"])
    assert captions == captions_of(TOMATO, ["番茄"])
    assert captions[0] == "老式图画风格的西红柿"
    assert all(any(word in caption for word in STYLE.synonyms) for caption in captions)
    assert all("{s}" in template for template in STYLED)


def test_no_other_style_uses_its_words_and_the_model_can_read_them():
    others = "".join(style.words + "".join(style.synonyms) for style in STYLES.values())
    assert not any(word in others for word in STYLE.synonyms)
    tokenizer = json.loads((EMBEDDED / "emoji-zh/tokenizer/tokenizer.json").read_text())
    assert set(STYLE.words + "".join(STYLE.synonyms)) <= set(tokenizer["model"]["vocab"])


def test_the_probe_tells_styles_apart_on_concepts_it_never_saw(benchmark_script):
    script = benchmark_script("styles")
    generator = torch.Generator().manual_seed(0)
    styles = ["a", "b", "c"] * 20
    centres = torch.eye(3, 16)[[0, 1, 2] * 20]
    features = centres + 0.1 * torch.randn(60, 16, generator=generator)
    concepts = [str(number // 3) for number in range(60)]
    probe = script.StyleProbe(features, styles, concepts)
    assert probe.on_real("b")["right"] > 0.9
    assert probe.name(torch.eye(3, 16), ["new"] * 3) == ["a", "b", "c"]
    held = script.fold_of(concepts[0])
    assert any(script.fold_of(concept) != held for concept in concepts)


def test_the_difference_is_paired_and_its_interval_holds_it(benchmark_script):
    difference = benchmark_script("finetune").difference
    one, two = [True, True, False, False] * 5, [True, False, False, False] * 5
    lost, (low, high) = difference(one, two, prompts=10)
    assert lost == 0.25
    assert low <= lost <= high
    assert difference(one, one, prompts=10) == (0.0, [0.0, 0.0])
