"""What is remembered of sentences is what reading them would give, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rapid_diffusion import EntityWeight, RapidDiffusionPipeline
from rapid_diffusion.testing import build_micro_adapter
from rapid_diffusion.text.cache import TextCache

WORDS = ["老虎", "卡通风格的猫", "大红苹果", "", "一个画"]


@pytest.fixture
def pipe(micro_model_folder):
    pipeline = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipeline.calls = []
    pipeline.model.text_encoder.register_forward_pre_hook(lambda *_: pipeline.calls.append(1))
    return pipeline


def hidden(pipe, *words):
    return pipe.encode_text(pipe.tokenize(words)).hidden


@torch.inference_mode()
def afresh(pipe, word):
    """What the encoder itself gives, past the cache."""
    return pipe.model.text_encoder.encode(pipe.tokenize([word])).hidden


def test_a_sentence_has_the_same_bits_alone_repeated_and_in_any_company(pipe):
    alone = {word: afresh(pipe, word)[0] for word in WORDS}
    for words in (WORDS, WORDS[::-1], ["老虎"] * 3, WORDS[2:4] + WORDS):
        states = hidden(pipe, *words)
        assert all(torch.equal(row, alone[w]) for row, w in zip(states, words, strict=True))


def test_a_sentence_is_read_once(pipe):
    pipe("老虎", seed=1, num_images_per_prompt=3)
    pipe(["老虎", "猫"], seed=2)
    assert len(pipe.calls) == 3  # 老虎, the empty negative prompt, 猫
    pipe("老虎", seed=3, knowledge=False)
    pipe("老虎", seed=3, knowledge=[EntityWeight("老虎", 0.5)])
    assert len(pipe.calls) == 5


def test_what_is_handed_out_can_be_written_to(pipe):
    wanted = afresh(pipe, "老虎")
    with torch.inference_mode():
        hidden(pipe, "老虎").zero_()
    assert torch.equal(hidden(pipe, "老虎"), wanted)


def test_weights_that_change_are_seen(pipe):
    encoder = pipe.model.text_encoder
    before = hidden(pipe, "老虎")
    with torch.no_grad():
        next(encoder.tower.parameters()).mul_(1.5)
    after = hidden(pipe, "老虎")
    assert torch.equal(after, afresh(pipe, "老虎"))
    assert not torch.equal(after, before)
    pipe.to("cpu")
    encoder.double()
    assert hidden(pipe, "老虎").dtype == torch.float64


def test_adapters_have_states_of_their_own_even_under_one_name(
    pipe, micro_model_folder, micro_adapter_folder, tmp_path
):
    other = build_micro_adapter(tmp_path / "two", micro_model_folder, seed=2)
    seen = []
    for folder in (micro_adapter_folder, other):
        pipe.load_adapter(folder, "ink")
        for name, scale in (("ink", 1.0), (None, 1.0), ("ink", 0.5)):
            with pipe._adapters.applied(name, scale):
                seen.append(hidden(pipe, "老虎"))
                assert torch.equal(seen[-1], afresh(pipe, "老虎"))
                assert torch.equal(hidden(pipe, "老虎"), seen[-1])
    assert len({states.numpy().tobytes() for states in seen}) == 5


def test_what_is_read_while_the_weights_change_is_not_kept(pipe, micro_adapter_folder):
    pipe.load_adapter(micro_adapter_folder, "ink")

    def change(*_):
        with pipe._adapters.applied("ink"):
            pass

    handle = pipe.model.text_encoder.register_forward_pre_hook(change)
    hidden(pipe, "老虎")
    handle.remove()
    hidden(pipe, "老虎")
    assert len(pipe.calls) == 2


def test_the_oldest_go_first_when_the_bytes_are_spent(pipe):
    size = hidden(pipe, "老虎").nbytes
    pipe._texts = TextCache(2 * size)
    for word in ("老虎", "猫", "老虎", "大红苹果", "老虎"):
        hidden(pipe, word)
    assert len(pipe.calls) == 1 + 3
    hidden(pipe, "猫")
    assert len(pipe.calls) == 5
    pipe._texts = TextCache(0)
    assert torch.equal(hidden(pipe, "猫"), hidden(pipe, "猫"))


def test_threads_read_what_one_would(pipe):
    alone = [afresh(pipe, word) for word in WORDS]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda place: hidden(pipe, WORDS[place % 5]), range(40)))
    assert all(torch.equal(states, alone[place % 5]) for place, states in enumerate(read))
