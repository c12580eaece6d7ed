"""Sentences that a model is taught: what it understands then, what stays, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_diffusion import CheckpointError, InvalidRequestError, RapidDiffusionPipeline
from rapid_diffusion.checkpoints.folder import read_weights, storage_of
from rapid_diffusion.denoising.denoiser import WEIGHTS
from rapid_diffusion.model_folder import load_model, save_model, save_shared
from rapid_diffusion.training.config import DataConfig, LoopConfig
from rapid_diffusion.training.loop import CHECKPOINT
from rapid_diffusion.training.sentences import Sentences
from rapid_diffusion.training.teach import Lesson, Teaching, check_teachable, read_lessons, run

LESSONS = [
    {"sentence": "我想要可爱的老虎！", "means": "卡通老虎", "entity": "老虎"},
    {"sentence": "卡通老虎", "means": "卡通老虎", "entity": "老虎"},
    {"sentence": "扁平的大猫", "means": "扁平的大猫"},
    {"sentence": "A cat", "means": "一个猫"},
]
CONFIG = "[loops.teach]\nsteps = {steps}\nbatch = 8\nlearning_rate = 3e-3\n"


@pytest.fixture(scope="module")
def attentive(micro_model_folder, tmp_path_factory):
    """The micro model with a tower whose every layer makes a difference."""
    model = load_model(micro_model_folder)
    with torch.no_grad():
        for name, weight in model.text_encoder.tower.named_parameters():
            weight *= 10 if "layer." in name and weight.dim() == 2 else 1
    folder = tmp_path_factory.mktemp("attentive") / "model"
    save_model(model, folder, "float32")
    return folder


@pytest.fixture
def lessons(tmp_path):
    path = tmp_path / "lessons.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LESSONS))
    return path


def teach(model, lessons, steps=2, out="taught", **options):
    config = lessons.with_name("teach.toml")
    config.write_text(CONFIG.format(steps=steps))
    return run(model, lessons, lessons.parent / out, config, **options)


def sentence_states(pipeline, texts):
    links = [pipeline.link(pipeline.request(text))[text] for text in texts]
    return pipeline.encode_text(pipeline.tokenize(texts, links)).hidden


def test_a_taught_sentence_draws_what_it_means(attentive, lessons):
    teach(attentive, lessons, steps=150)
    before = RapidDiffusionPipeline.from_pretrained(attentive)
    after = RapidDiffusionPipeline.from_pretrained(lessons.with_name("taught"))
    said, meant = ["我想要可爱的老虎！", "A cat"], ["卡通老虎", "一个猫"]
    goal = sentence_states(before, meant)[:, 0]
    untaught = (sentence_states(before, said)[:, 0] - goal).square().mean()
    taught = (sentence_states(after, said)[:, 0] - goal).square().mean()
    assert taught < 0.1 * untaught
    kept = sentence_states(before, ["扁平的大猫"]) - sentence_states(after, ["扁平的大猫"])
    assert kept[:, : len("扁平的大猫") + 2].square().mean() < 0.1 * untaught


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_only_words_and_text_tower_change(micro_model_folder, lessons, storage):
    model = lessons.with_name("model")
    save_model(load_model(micro_model_folder), model, storage)
    report = teach(model, lessons)
    assert report["sentences"] == 4
    assert report["kept_as_before"] == 2
    assert report["longer_than_the_model_reads"] == 0
    assert {"我", "可", "爱"} <= set(report["new_pieces"])
    taught = lessons.with_name("taught")
    parts = sorted(path.relative_to(model) for path in model.rglob("*") if path.is_file())
    changed = {part.parts[0] for part in parts if differ(model / part, taught / part)}
    assert changed == {"text_encoder", "tokenizer", "manifest.json"}
    assert storage_of(taught / "text_encoder") == storage_of(model / "text_encoder")
    words = [load_model(folder).tokenizer.words() for folder in (model, taught)]
    assert words[1] == words[0] + report["new_pieces"]


def differ(one, other):
    return one.read_bytes() != other.read_bytes()


def test_untaught_it_draws_the_same_pictures(micro_model_folder, lessons):
    """Grown by new characters, which are read as the unknown one that they were."""
    teaching = Teaching(micro_model_folder, read_lessons(lessons), LoopConfig(0, 4, 1e-3))
    teaching.run(lessons.with_name("grown"), resume=False)
    texts = ["我想要可爱的老虎！", "扁平的大猫", ""]
    drawn = [
        RapidDiffusionPipeline.from_pretrained(folder)(texts[:2], seed=1, output_type="numpy")
        for folder in (micro_model_folder, lessons.with_name("grown"))
    ]
    assert np.array_equal(drawn[0].images, drawn[1].images)


def test_killed_it_goes_on_to_the_same_weights(micro_model_folder, lessons):
    teach(micro_model_folder, lessons, steps=4, out="once")
    teach(micro_model_folder, lessons, steps=2, out="twice")
    assert (lessons.with_name("twice-training") / "stages" / "teach" / CHECKPOINT).is_file()
    teach(micro_model_folder, lessons, steps=4, out="twice")
    once, twice = (
        read_weights(lessons.with_name(name) / "text_encoder") for name in ("once", "twice")
    )
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_other_sentences_do_not_go_on_from_a_checkpoint(micro_model_folder, lessons):
    teach(micro_model_folder, lessons)
    lessons.write_text(json.dumps({"sentence": "大猫", "means": "猫"}))
    with pytest.raises(CheckpointError, match="sentences"):
        teach(micro_model_folder, lessons, steps=4)
    teach(micro_model_folder, lessons, steps=4, resume=False)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"sentence": "大猫"}', "line 1: .*`means`"),
        ('{"sentence": "大猫", "means": "猫", "weight": 1}', "line 1: .*`means`"),
        ('{"sentence": "大猫", "means": 3}', "line 1: .*texts"),
        ('["大猫", "猫"]', "line 1: .*an object"),
        ("大猫", "line 1 is not JSON"),
        ("", "no rows"),
    ],
)
def test_a_line_at_fault_is_named(tmp_path, line, told):
    path = tmp_path / "lessons.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(CheckpointError, match=told):
        read_lessons(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.jsonl"):
        read_lessons(tmp_path / "nowhere.jsonl")


def test_a_meaning_must_be_in_words_that_the_model_knows(micro_model_folder):
    lessons = [Lesson("喵", "喵"), Lesson("猫", "喵")]  # what means itself may be of any words
    teaching = Teaching(micro_model_folder, lessons, LoopConfig(1, 4, 1e-3))
    with pytest.raises(InvalidRequestError, match=r"1 lines .*'喵'"):
        teaching.stage()


def test_an_entity_that_the_graph_has_not_is_named(micro_model_folder):
    lessons = [Lesson("大猫", "猫", "emoji:nothing")]
    with pytest.raises(InvalidRequestError, match="'emoji:nothing' of '大猫'"):
        Teaching(micro_model_folder, lessons, LoopConfig(1, 4, 1e-3)).stage()


def test_a_sentence_that_means_itself_is_at_the_teacher_already_but_for_links(micro_model_folder):
    linked = Teaching(micro_model_folder, [Lesson("卡通老虎", "卡通老虎")], LoopConfig(9, 16, 1e-3))
    unlinked = Teaching(micro_model_folder, [Lesson("卡通", "卡通")], LoopConfig(9, 16, 1e-3))
    losses = [
        [teaching.stage()[0].loss(step).item() for step in range(5)]
        for teaching in (linked, unlinked)
    ]
    assert min(losses[0]) > 0
    assert losses[1] == [0.0] * 5


def test_in_bare_words_a_sentence_comes_to_mean_what_its_links_say(attentive, lessons):
    teach(attentive, lessons, steps=150)
    before = RapidDiffusionPipeline.from_pretrained(attentive)
    after = RapidDiffusionPipeline.from_pretrained(lessons.with_name("taught"))
    goal = sentence_states(before, ["卡通老虎"])[:, 0]
    bare = [
        (pipe.encode_text(pipe.tokenize(["卡通老虎"])).hidden[:, 0] - goal).square().mean()
        for pipe in (before, after)
    ]
    assert bare[1] < 0.2 * bare[0]


def test_what_a_meaning_has_not_is_made_other_words_at_times(micro_model_folder):
    """So whatever stands there comes to mean nothing."""
    model = load_model(micro_model_folder)
    sentences = Sentences(DataConfig(""), model.graph, model.tokenizer)
    tokens = model.tokenizer(["一个卡通的猫画"] * 400, [[]] * 400, 8)
    pieces = torch.zeros_like(tokens.mask)
    pieces[:, 2:5] = True
    generators = (torch.Generator().manual_seed(5) for _ in range(2))
    once, again = (sentences.replaced(tokens, pieces, generator) for generator in generators)
    assert torch.equal(once.ids, again.ids)
    other = once.ids != tokens.ids
    assert not other[~pieces].any()
    assert 0.15 < other[pieces].float().mean() < 0.35  # a quarter, of which some by chance the same
    assert 0.25 < other.any(1).float().mean() < 0.45  # in most of the half that may be changed


def test_a_student_that_shares_is_taught_and_shares_the_rest(micro_model_folder, lessons):
    base, student = lessons.with_name("base"), lessons.with_name("student")
    save_model(load_model(micro_model_folder), base, "int8")
    model = load_model(base)
    with torch.no_grad():
        model.denoiser.network.conv_out.bias += 1
    save_shared(replace(model, card=replace(model.card, name="few")), base, student, "int8")
    teach(student, lessons)
    taught = lessons.with_name("taught")
    assert sorted(path.name for path in taught.iterdir() if path.is_dir()) == [
        "text_encoder",
        "tokenizer",
        "unet",
    ]
    assert not differ(student / "unet" / WEIGHTS, taught / "unet" / WEIGHTS)
    assert len(load_model(taught).tokenizer) > len(load_model(student).tokenizer)
    with pytest.raises(InvalidRequestError, match="must lie beside it"):
        teach(student, lessons, out="elsewhere/taught")


def test_a_model_that_looks_at_word_pieces_only_is_refused(micro_model_folder, lessons):
    model = load_model(micro_model_folder)
    model.denoiser.takes_sentence = False
    with pytest.raises(InvalidRequestError, match="word pieces only"):
        check_teachable(model)
    with pytest.raises(InvalidRequestError, match="no entity vectors"):
        check_teachable(replace(model, graph=None))
