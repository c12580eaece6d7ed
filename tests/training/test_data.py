"""The examples of a step: a function of (seed, step), and honest about what is missing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.data import Examples, step_generator, vocabulary_of


def open_examples(folder, **values):
    config = DataConfig(str(folder), pictures="small.npy", large_pictures="large.npy")
    return Examples(replace(config, **values), max_length=12)


@pytest.fixture(scope="module")
def examples(data_folder):
    return open_examples(data_folder)


@pytest.fixture
def folder(data_folder, tmp_path):
    return shutil.copytree(data_folder, tmp_path / "data")


def test_every_pass_shows_every_training_picture_once_and_no_held_out_one(examples):
    for seed in (0, 1):
        shown = [i for step in range(11) for i in examples.indices(step, 5, seed)]
        assert len(examples.train) == 11
        for epoch in range(5):
            assert sorted(shown[11 * epoch : 11 * (epoch + 1)]) == examples.train
    assert examples.held_out == [11]


def test_the_examples_of_a_step_depend_on_the_step_alone(examples, data_folder):
    again = open_examples(data_folder)
    assert again.indices(7, 5, 0) == examples.indices(7, 5, 0) != examples.indices(8, 5, 0)
    one, other = (e.sentences([0, 1, 2], step_generator(0, 7)) for e in (examples, again))
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.entity_vectors, other.entity_vectors)


def test_fixed_rows_are_held_out_ones(examples):
    assert examples.fixed_rows(3) == [11]
    assert examples.first_texts([0, 11]) == ["一个老虎", "一个红苹果"]


def test_another_seed_shows_the_pictures_in_another_order(examples):
    assert examples.indices(7, 5, 0) != examples.indices(7, 5, 1)


def test_sentences_are_captions_of_their_own_pictures(data_folder):
    plain = open_examples(data_folder, caption_dropout=0, link_dropout=0, surface_dropout=0)
    for step in range(20):
        tokens = plain.sentences([4, 2], step_generator(0, step))
        for row, ids in zip((4, 2), tokens.ids, strict=True):
            both = plain.tokenizer(plain.rows[row]["captions"], [[], []], 8).ids.tolist()
            assert ids.tolist() in both


def test_first_captions_are_what_the_pipeline_would_make_of_them(examples):
    from rapid_diffusion.text.entities import links_of, spans_of

    texts = [row["captions"][0] for row in examples.rows]
    spans = [spans_of(examples.graph, links_of(examples.graph, text, True)) for text in texts]
    wanted = examples.tokenizer(texts, spans, examples.graph.dimension)
    tokens = examples.first_captions(list(range(12)))
    assert torch.equal(tokens.ids, wanted.ids)
    assert torch.equal(tokens.mask, wanted.mask)
    assert torch.equal(tokens.entity_vectors, wanted.entity_vectors)
    assert tokens.entity_vectors.any()
    assert not examples.first_captions([0, 1], knowledge=False).entity_vectors.any()
    typed = examples.typed(texts)
    assert torch.equal(typed.ids, tokens.ids)
    assert torch.equal(typed.entity_vectors, tokens.entity_vectors)
    assert not examples.typed(texts, knowledge=False).entity_vectors.any()


def test_every_picture_has_its_features_in_order(examples):
    class Pair:
        def image_features(self, images):
            return images.mean((2, 3))

    features = examples.picture_features(Pair(), torch.device("cpu"))
    wanted = torch.cat([examples.picture_batch([row]).mean((2, 3)) for row in range(12)])
    assert torch.equal(features, wanted)


@pytest.mark.parametrize("dropped", ["caption_dropout", "link_dropout"])
def test_dropped_links_and_captions_leave_no_vector(data_folder, dropped):
    settings = {"caption_dropout": 0, "link_dropout": 0, "surface_dropout": 0, dropped: 1}
    tokens = open_examples(data_folder, **settings).sentences([0, 1], step_generator(0, 0))
    assert not tokens.entity_vectors.any()
    assert (tokens.mask.sum(1) == 2).all() == (dropped == "caption_dropout")


def test_hidden_words_keep_their_entity(data_folder):
    settings = {"caption_dropout": 0, "link_dropout": 1, "surface_dropout": 1}
    hidden = open_examples(data_folder, **settings)
    tokens = hidden.sentences([0], step_generator(0, 0))
    reached = tokens.entity_vectors[0].any(1)
    assert reached.sum() == 2  # 老虎
    tiger = hidden.tokenizer.tokenizer.token_to_id("老")
    assert tokens.ids[0][reached][0] != tiger


def test_a_linked_view_keeps_every_link_and_a_bare_one_every_word(data_folder):
    given = {"caption_dropout": 0, "link_dropout": 0, "surface_dropout": 0}
    varied = given | {"link_dropout": 0.99, "surface_dropout": 1}
    examples = open_examples(data_folder, **varied)
    linked, bare, whole = (
        one.sentences(list(range(6)), step_generator(0, 0), view)
        for one, view in (
            (examples, "linked"),
            (examples, "bare"),
            (open_examples(data_folder, **given), "mixed"),
        )
    )
    assert torch.equal(linked.entity_vectors, whole.entity_vectors)
    assert whole.entity_vectors.any()
    assert torch.equal(bare.ids, whole.ids)
    assert not bare.entity_vectors.any()


def test_a_training_without_knowledge_has_no_links_in_any_view(data_folder):
    examples = open_examples(data_folder, link_dropout=1, surface_dropout=0)
    for view in ("mixed", "linked", "bare"):
        tokens = examples.sentences([0, 1], step_generator(0, 0), view)
        assert not tokens.entity_vectors.any()


def test_the_vocabulary_is_made_of_the_training_captions():
    words = vocabulary_of(["一只 Cat", "猫\u2028"])
    assert words[5:] == ["a", "c", "t", "一", "只", "猫", "##a", "##c", "##t"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "small.npy", "graph"])
def test_a_missing_file_is_named(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        open_examples(folder)


def test_a_missing_file_of_large_pictures_is_named_when_it_is_needed(folder):
    (folder / "large.npy").unlink()
    with pytest.raises(CheckpointError, match=r"large\.npy"):
        open_examples(folder).large_pictures()


@pytest.mark.parametrize(
    "array",
    [np.zeros((11, 8, 8, 3), np.uint8), np.zeros((12, 8, 8, 3)), np.zeros((12, 8, 8), np.uint8)],
)
def test_pictures_that_do_not_fit_are_named(folder, array):
    np.save(folder / "small.npy", array)
    with pytest.raises(CheckpointError, match=r"small\.npy"):
        open_examples(folder)


def test_truncated_pictures_are_named(folder):
    (folder / "small.npy").write_bytes((folder / "small.npy").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"small\.npy"):
        open_examples(folder)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "{}", '{"captions": []}', '{"captions": [5]}', '{"captions": "老虎"}']
)
def test_metadata_that_does_not_fit_are_named(folder, line):
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(CheckpointError, match=r"metadata\.jsonl"):
        open_examples(folder)


def test_a_data_set_of_held_out_rows_only_is_refused(folder):
    path = folder / "metadata.jsonl"
    rows = [json.loads(line) | {"split": "held_out"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CheckpointError, match="split"):
        open_examples(folder)
