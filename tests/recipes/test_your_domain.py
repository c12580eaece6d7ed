"""The tutorial's commands, in its order, at toy size: from IDX files to pictures and a report."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from knowledge import cli as knowledge_cli
from rapid_diffusion import RapidDiffusionPipeline, cli
from rapid_diffusion.evaluation import judge

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ROOT / "docs" / "your-domain.md", ROOT / "docs" / "your-domain.zh.md"
RECIPE = ROOT / "recipes" / "fashion_zh" / "README.md"
CONFIG = Path("recipes/fashion_zh/config.toml")
# What is smaller here than on the page; every other word of file and commands is the page's.
SMALLER_CONFIG = {
    r"^steps = \d+": "steps = 3",
    r"^batch = \d+": "batch = 6",
    r"^sample_every = \d+": "sample_every = 3",
    r"^widths = \[64, 128\]": "widths = [16, 16]",
    r"^widths = \[32, 64, 96, 128\]": "widths = [8, 8, 8, 8]",
    r"^num_conv = \d+": "num_conv = 1",
    r"^upscale = 2": "num_inference_steps = 2\nupscale = 2",
}
MEASURED = ("retrieval", "knowledge", "entity_types", "diversity", "nearest")
SMALLER_NUMBERS = {"--seeds": "2", "--pictures": "2"}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, without comments."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    return [re.sub(r" +# .*", "", block) for name, block in found if name == language]


def commands(page: Path) -> list[list[str]]:
    """The words of every line of the page's ```bash blocks."""
    return [shlex.split(line) for block in blocks(page, "bash") for line in block.splitlines()]


def run(program: str, *words: str) -> int:
    """One command in this process; of `serve`, which never ends, only the words are checked."""
    following = zip((program, *words), words, strict=False)
    smaller = [SMALLER_NUMBERS.get(before, word) for before, word in following]
    if smaller[0] == "serve":
        typer.main.get_command(cli.app).commands["serve"].make_context("serve", smaller[1:])
        return 0
    if program == "rapid-diffusion":
        return cli.run(smaller)
    assert (program, smaller[0]) == ("python", "-m")
    if smaller[1] == "knowledge":
        return knowledge_cli.main(smaller[2:])
    importlib.import_module(smaller[1]).main(smaller[2:])
    return 0


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture
def shop(idx_folder, tmp_path, monkeypatch):
    """A folder to work in: the smaller configuration, the data in its place, a quicker judge."""
    text = (ROOT / CONFIG).read_text(encoding="utf-8")
    for pattern, smaller in SMALLER_CONFIG.items():
        assert re.search(pattern, text, re.M), pattern
        text = re.sub(pattern, smaller, text, flags=re.M)
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recipes.fashion_zh.build.PLACE", idx_folder)
    monkeypatch.setattr(judge, "SIZE", 64)
    return tmp_path


def test_the_commands_of_the_page_lead_from_pictures_to_a_report(shop, capsys):
    said = []
    for words in commands(ENGLISH):
        assert run(*words) == 0, words
        said.append((" ".join(words[:3]), capsys.readouterr().out))
    work, printed = shop / ".work/fashion_zh", dict(said)
    assert "80 sound, 0 broken" in printed["rapid-diffusion data check"]
    assert "400 (100.0 %) of the captions name" in printed["rapid-diffusion data check"]
    assert 'pictures = "pictures_32.npy"' in printed["rapid-diffusion data prepare"]
    assert any("夹克\t外套" in out for _, out in said)
    assert np.load(work / "data/pictures_64.npy").shape == (80, 64, 64, 3)
    assert list((work / "run/stages/diffusion/samples").glob("*.png"))
    drawn = [*sorted((shop / "out/fashion").iterdir()), shop / "out/words-only.png"]
    assert [size_of(path) for path in drawn] == [(64, 64)] * 4
    report = json.loads((work / "report/report.json").read_text(encoding="utf-8"))
    sections = report["sections"]
    assert [sections[name].get("missing") for name in MEASURED] == [None] * len(MEASURED)
    assert '"name": "fashion-zh"' in printed["rapid-diffusion inspect .work/fashion_zh/run/model"]

    check_new_name(shop)


def check_new_name(shop: Path) -> None:
    """Section 8: an alias is added, its commands are given again, then its Python runs."""
    model = shop / ".work/fashion_zh/run/model"
    before = RapidDiffusionPipeline.from_pretrained(model)
    facts = shop / ".work/fashion_zh/source/facts.jsonl"
    text = facts.read_text(encoding="utf-8")
    facts.write_text(text.replace('"卫衣"', '"卫衣", "针织衫"'), encoding="utf-8")
    again = [words for words in commands(ENGLISH) if words[2:3] == ["knowledge"]][-2:]
    assert [words[3] for words in again] == ["build", "train"]
    assert [run(*words) for words in again] == [0, 0]
    (code,) = blocks(ENGLISH, "python")
    exec(compile(code, str(ENGLISH), "exec"), {})
    after = RapidDiffusionPipeline.from_pretrained(shop / "out/fashion-zh-2")
    assert before("一件针织衫").links == [[]]
    assert [link.key for link in after("一件针织衫").links[0]] == ["套头衫"]
    pictures = [pipe("深色的凉鞋", seed=1, output_type="numpy").images for pipe in (before, after)]
    assert np.array_equal(*pictures)


def test_the_configuration_the_page_shows_is_what_prepare_prints_and_the_recipe_has():
    from rapid_diffusion.training.config import read_training_config

    config = read_training_config(ROOT / CONFIG)
    for page in (ENGLISH, CHINESE):
        (shown,) = [block for block in blocks(page, "") if "[data]" in block]
        assert f'folder = "{config.data.folder}"' in shown
        assert f'pictures = "{config.data.pictures}"' in shown
        assert f'large_pictures = "{config.data.large_pictures}"' in shown


def test_both_pages_have_the_same_commands_files_and_numbers():
    for language in ("bash", "sh", "json", "python", ""):
        english, chinese = blocks(ENGLISH, language), blocks(CHINESE, language)
        assert [block.split() for block in english] == [block.split() for block in chinese]
    rows = [
        [
            re.findall(r"`[^`]+`|TBD\(\w+\)|\d+(?:[.,]\d+)*", line)
            for line in lines
            if line[:1] == "|"
        ]
        for lines in (page.read_text("utf-8").splitlines() for page in (ENGLISH, CHINESE))
    ]
    assert [sorted(row) for row in rows[0]] == [sorted(row) for row in rows[1]]
    assert len(commands(ENGLISH)) >= 10


def test_the_recipe_gives_the_commands_of_the_page():
    given = [words for words in commands(RECIPE) if words[0] != "apt-get"]
    assert [words for words in commands(ENGLISH) if words in given][: len(given)] == given


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
def test_what_the_page_points_at_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text)
    links += [f"../{path}" for path in re.findall(r"`(recipes/[\w/.]+)`", text)]
    assert len(links) > 8
    assert [link for link in links if not (page.parent / link).exists()] == []
    for row in blocks(page, "json"):
        assert json.loads(row)
