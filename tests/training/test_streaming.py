"""Training straight from shards: a function of (seed, step), whatever was read before."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.testing import build_micro_graph
from rapid_diffusion.training import streaming
from rapid_diffusion.training.config import DataConfig, read_training_config
from rapid_diffusion.training.data import step_generator
from rapid_diffusion.training.enlarging import _crops
from rapid_diffusion.training.run import run
from rapid_diffusion.training.streaming import ROWS_PER_SHARD, ShardExamples

SHARDS, ROWS = 6, 5


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_shard(path, numbers, damage=None):
    """Rows with one caption that holds their number; `damage[number]` takes a picture's place."""
    with tarfile.open(path, "w") as file:
        for number in numbers:
            facts = {"captions": [f"老虎{number}号"], "entity": "老虎"}
            picture = (damage or {}).get(number, png(number))
            for ending, content in (("png", picture), ("json", json.dumps(facts).encode())):
                info = tarfile.TarInfo(f"{number:03d}.{ending}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty rows in six shards; rows 7 and 12 hold no picture."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        write_shard(folder / f"s-{shard}.tar", numbers, {7: b"<html>", 12: b""})
    build_micro_graph(folder / "graph")
    return folder


def opened(folder, output=None, **settings):
    config = DataConfig(str(folder), shards="s-{0..5}.tar", size=32, large_size=64, **settings)
    return ShardExamples(config, 12, output)


def plain(folder, output=None):
    return opened(folder, output, caption_dropout=0, link_dropout=0, surface_dropout=0)


def number_of(index):
    shard, row = divmod(index, ROWS_PER_SHARD)
    return shard * ROWS + row


def test_every_pass_shows_every_row_once_and_each_in_its_own_order(folder):
    examples = opened(folder)
    shown = [number_of(i) for step in range(20) for i in examples.indices(step, 6, 3)]
    passes = [shown[start : start + 30] for start in range(0, 120, 30)]
    assert all(sorted(one) == list(range(30)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert shown != [number_of(i) for step in range(20) for i in examples.indices(step, 6, 4)]


@pytest.mark.parametrize("step", [0, 1, 4, 17, 1000, 999_999])
def test_a_step_is_the_same_whatever_was_asked_before(folder, tmp_path, step):
    used = opened(folder, tmp_path / "run")
    for earlier in (3, 0, 40):
        used.indices(earlier, 7, 0)
    fresh, again = opened(folder), opened(folder, tmp_path / "run")
    wanted = used.indices(step, 7, 0)
    assert fresh.indices(step, 7, 0) == again.indices(step, 7, 0) == wanted
    assert torch.equal(fresh.picture_batch(wanted), used.picture_batch(wanted))
    one, two = (e.sentences(wanted, step_generator(0, step)) for e in (fresh, used))
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.entity_vectors, two.entity_vectors)


def test_going_on_reads_no_content_of_earlier_rows_and_no_header_twice(
    folder, tmp_path, monkeypatch
):
    opened(folder, tmp_path).indices(9, 6, 0)
    monkeypatch.setattr(streaming.ShardIndex, "_scan", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(streaming.ShardExamples, "_read", lambda *_: pytest.fail("read a row"))
    assert len(opened(folder, tmp_path).indices(9, 6, 0)) == 6


def test_the_first_step_reads_a_few_shards_only(folder):
    examples = opened(folder)
    examples.picture_batch(examples.indices(0, 6, 0))
    assert len(examples.index._counts) == streaming.WINDOW < SHARDS


def test_fixed_rows_are_the_same_each_time(folder):
    one, two = (plain(folder) for _ in range(2))
    rows = one.fixed_rows(4)
    assert rows == two.fixed_rows(4)
    assert all(text.startswith("老虎") for text in one.first_texts(rows))


def test_pictures_and_sentences_are_of_the_same_row(folder):
    examples = plain(folder)
    indices = [i for i in examples.indices(0, 30, 0) if number_of(i) not in (7, 12)]
    pictures = examples.picture_batch(indices)
    for picture, index in zip(pictures, indices, strict=True):
        with Image.open(io.BytesIO(png(number_of(index)))) as image:
            wanted = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(((picture + 1) * 127.5).round().byte(), wanted)
    tokens = examples.sentences(indices, step_generator(0, 0))
    texts = [f"老虎{number_of(index)}号" for index in indices]
    wanted = examples.tokenizer(texts, [[]] * len(texts), 1)
    assert torch.equal(tokens.ids, wanted.ids)
    assert tokens.entity_vectors.any(-1).sum() == 2 * len(indices)


def test_a_broken_row_is_named_once_and_its_neighbour_is_shown_for_it(folder, tmp_path):
    for _ in range(2):
        examples = plain(folder, tmp_path)
        indices = examples.indices(0, 30, 0)
        pictures = dict(zip(map(number_of, indices), examples.picture_batch(indices), strict=True))
        words = dict(
            zip(map(number_of, indices), examples.first_captions(indices).ids, strict=True)
        )
        for broken in (7, 12):
            assert torch.equal(pictures[broken], pictures[broken + 1])
            assert torch.equal(words[broken], words[broken + 1])
    lines = (tmp_path / "refused.jsonl").read_text().splitlines()
    refused = {row["where"]: row["reason"] for row in map(json.loads, lines)}
    assert len(lines) == 2
    assert refused["s-1.tar:007.png"] == "the picture is a page of HTML"
    assert "0 bytes" in refused["s-2.tar:012.png"]


def test_a_shard_without_a_sound_row_ends_in_an_error_that_names_it(tmp_path):
    build_micro_graph(tmp_path / "graph")
    write_shard(tmp_path / "s-0.tar", [0, 1], {0: b"", 1: b""})
    examples = ShardExamples(DataConfig(str(tmp_path), shards="s-0.tar"), 12)
    with pytest.raises(CheckpointError, match=r"s-0\.tar: no row can be shown"):
        examples.picture_batch(examples.indices(0, 1, 0))
    write_shard(tmp_path / "s-0.tar", [])
    with pytest.raises(CheckpointError, match="no sound row"):
        ShardExamples(DataConfig(str(tmp_path), shards="s-0.tar"), 12).indices(0, 1, 0)


@pytest.mark.parametrize(("pattern", "reason"), [("t-*.tar", "no shard"), ("s-{0..9}.tar", "s-6")])
def test_missing_shards_are_named(folder, pattern, reason):
    with pytest.raises(CheckpointError, match=reason):
        ShardExamples(DataConfig(str(folder), shards=pattern), 12)


def test_a_packed_shard_says_to_unpack_it(tmp_path):
    (tmp_path / "s.tar.gz").write_bytes(b"")
    with pytest.raises(CheckpointError, match="gunzip"):
        ShardExamples(DataConfig(str(tmp_path), shards="s.tar.gz"), 12)


def test_a_shard_that_changed_is_indexed_anew(tmp_path):
    build_micro_graph(tmp_path / "graph")
    config = DataConfig(str(tmp_path), shards="s.tar")
    for count in (2, 3):
        write_shard(tmp_path / "s.tar", range(count))
        assert ShardExamples(config, 12, tmp_path / "run").index.count(0) == count


def test_crops_of_both_sizes_show_the_same_place(folder):
    examples = opened(folder)
    indices = examples.indices(0, 2, 0)
    one, two = (
        _crops(pictures, scale, indices, [[0, 0], [0, 0]], 32)
        for pictures, scale in ((examples.pictures, 1), (examples.large_pictures(), 2))
    )
    assert (one.shape, two.shape) == ((2, 3, 32, 32), (2, 3, 64, 64))
    shrunk = torch.nn.functional.avg_pool2d(two, 2)
    other = (one[0] - one[1]).abs().mean()
    assert (shrunk - one).abs().mean() < other / 3


def test_the_vocabulary_is_gb2312_or_the_characters_of_a_file(folder, tmp_path):
    assert len(opened(folder).tokenizer) > 6763
    (tmp_path / "words.txt").write_text("老虎a", encoding="utf-8")
    assert len(opened(folder, vocabulary=str(tmp_path / "words.txt")).tokenizer) == 5 + 3 + 1
    with pytest.raises(CheckpointError, match="vocabulary"):
        opened(folder, vocabulary=str(tmp_path / "nothing.txt"))


def test_all_stages_train_from_shards(folder, write_config, tmp_path):
    path = write_config(steps=2, folder=folder)
    path.write_text(
        path.read_text().replace(
            'pictures = "small.npy"', 'shards = "s-*.tar"\nsize = 32\nlarge_size = 64'
        )
    )
    assert read_training_config(path).data.shards == "s-*.tar"
    run(path)
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()
