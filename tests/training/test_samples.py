"""Pictures and a page while a training runs, which goes on as if nobody had looked."""

import html.parser
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rapid_diffusion.training.config import LoopConfig
from rapid_diffusion.training.loop import run_loop
from rapid_diffusion.training.page import ProgressPage, curve, duration
from rapid_diffusion.training.run import Training
from rapid_diffusion.training.samples import sample_captions, sample_rows, sheet

LOOP = LoopConfig(steps=6, batch=4, learning_rate=1e-2, warmup=1, log_every=1)


@pytest.fixture
def training(begun, tmp_path):
    """A training of its own that has what `begun` has."""
    shutil.copytree(begun.output, tmp_path / "run")
    return Training(replace(begun.config, output=str(tmp_path / "run")))


def diffusion(training, folder, sample_every):
    stage = training._diffusion_stage(LOOP)
    torch.manual_seed(77)
    averages = run_loop(stage, replace(LOOP, sample_every=sample_every), folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return averages, [line["loss"] for line in lines], torch.get_rng_state(), stage


def test_sampling_changes_neither_the_curve_nor_the_weights_nor_the_random_state(
    training, tmp_path
):
    plain, curve_of_plain, state, _ = diffusion(training, tmp_path / "plain", 0)
    drawn, curve_of_drawn, state_of_drawn, stage = diffusion(training, tmp_path / "drawn", 2)
    assert curve_of_drawn == curve_of_plain
    assert torch.equal(state, state_of_drawn)
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)
    assert all(module.training for module in stage.module.modules())
    assert not (tmp_path / "plain" / "samples").exists()
    names = sorted(path.name for path in (tmp_path / "drawn" / "samples").iterdir())
    assert names == ["2.png", "4.png", "6.png"]


def test_a_sheet_shows_the_averaged_weights_and_is_the_same_every_time(training, tmp_path):
    averages, _, _, stage = diffusion(training, tmp_path / "stage", 6)
    last = (tmp_path / "stage" / "samples" / "6.png").read_bytes()
    assert stage.sheet(averages) == last
    assert stage.sheet({k: v.clone() for k, v in stage.module.state_dict().items()}) != last
    assert np.asarray(Image.open(io.BytesIO(last))).shape == (32, 32, 3)  # one row is held out


def test_a_sheet_draws_held_out_rows_spread_over_all_of_them(training):
    examples = training.examples
    assert sample_rows(examples) == [11]
    assert sample_captions(examples) == ["一个红苹果"]
    examples.held_out = []
    assert len(sample_rows(examples)) == 8
    assert (sample_rows(examples)[0], sample_rows(examples)[-1]) == (0, 10)


@pytest.mark.parametrize(("count", "shape"), [(1, (3, 2)), (4, (3, 20)), (5, (10, 20))])
def test_pictures_are_laid_out_in_rows_of_four(count, shape):
    pictures = np.full((count, 3, 2, 3), 7, np.uint8)
    page = sheet(pictures)
    assert page.shape == (*shape, 3)
    assert (page == 7).all(2).sum() == count * 6


def line(step, loss):
    return {"step": step, "loss": loss, "samples_per_second": 5.0, "seconds_left": 61.0}


def write_stage(output, name, lines, sheets=()):
    folder = output / "stages" / name
    (folder / "samples").mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    for step in sheets:
        (folder / "samples" / f"{step}.png").write_bytes(b"png of %d" % step)


class Reader(html.parser.HTMLParser):
    """The start tags of a page with their attributes; complains of tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)
        assert self.open == ["html"]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_the_curves_and_the_newest_sheets_and_nothing_from_elsewhere(tmp_path):
    write_stage(tmp_path, "text", [line(1, 2.0)])
    write_stage(tmp_path, "diffusion", [line(1, 2.0), line(2, 1.0)], sheets=[5, 10, 100, 20])
    ProgressPage(tmp_path, "<my> model", ["“红” & 白"]).write()
    page = (tmp_path / "progress.html").read_text()
    tags = Reader(page).tags
    assert sum(tag == "polyline" for tag, _ in tags) == 2
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert [image["alt"] for image in images] == ["“红” & 白"] * 3
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert page.index("Step 100") < page.index("Step 20") < page.index("Step 10:")
    assert "Step 5:" not in page
    assert "1 min 1 s left" in page
    assert ("meta", {"http-equiv": "refresh", "content": "10"}) in tags
    assert not {"link", "script"} & {tag for tag, _ in tags}


def test_a_page_is_not_written_again_within_seconds(tmp_path):
    page = ProgressPage(tmp_path, "m")
    page.update()
    (tmp_path / "progress.html").unlink()
    page.update()
    assert not (tmp_path / "progress.html").exists()


def test_a_curve_of_any_length_stays_small_and_inside_its_frame():
    drawn = curve([line(step + 1, 1 / (step + 1)) for step in range(10_001)])
    points = drawn.split('points="')[1].split('"')[0].split()
    assert 300 < len(points) <= 400
    places = [tuple(map(float, point.split(","))) for point in points]
    assert all(56 <= x <= 632 and 8 <= y <= 176 for x, y in places)
    assert len(curve([line(1, 0.0)])) < 1000


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "0 min 5 s"), (125.4, "2 min 5 s"), (7260, "2 h 1 min")]
)
def test_durations_are_told_in_two_units(seconds, said):
    assert duration(seconds) == said
