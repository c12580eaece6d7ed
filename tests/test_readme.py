"""What the READMEs tell a reader to type works, and what they point at is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from knowledge import cli as knowledge_cli
from rapid_diffusion import cli
from rapid_diffusion.training.config import read_training_config
from server.schemas import GenerationRequest

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "emoji_zh"
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
PAGES = (ENGLISH, CHINESE, RECIPE / "README.md", RECIPE / "MODEL_CARD.md")
RESULTS = ROOT / "docs" / "results" / "first-picture.json"
# Made when the weights are; until there are results, a page may point at what is to come.
COMING = ("docs/pictures", "docs/results", "rapid_diffusion/models/emoji-zh")
ROOMS = "knowledge|rapid_diffusion|server|recipes|benchmarks|examples|deploy|docs|tests"
OPEN_NUMBER = re.compile(r"TBD\(\w+\)")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, without comments."""
    found = re.findall(rf"```{language}\n(.*?)```", read(page), re.S)
    return [re.sub(r" *#.*", "", block).replace("\\\n", " ") for block in found]


def commands(page: Path, program: str) -> list[list[str]]:
    """The words after `program` in every command of the page, in blocks and inline."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", read(page))
    calls = [line for line in lines if line.startswith(f"{program} ")]
    return [shlex.split(line.removeprefix(program)) for line in calls]


def table(page: Path) -> list[list[str]]:
    """The number and the command of every row of the table of figures."""
    rows = [line.strip("| ").split(" | ")[1:] for line in read(page).splitlines() if "| " in line]
    return [row for row in rows if len(row) == 2][1:]


def test_the_python_of_both_readmes_runs(micro_model_folder, monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "emoji-zh").symlink_to(micro_model_folder)
    monkeypatch.setattr("rapid_diffusion.components.EMBEDDED", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ENGLISH, "python")
    assert [code] == blocks(CHINESE, "python")
    assert len(code.strip().splitlines()) <= 12
    names: dict[str, object] = {}
    exec(compile(code, str(ENGLISH), "exec"), names)
    assert (tmp_path / "tiger.png").stat().st_size > 0
    assert names["words_only"].links == [[]]
    assert names["as_wished"].links[0][0].surface == "大猫"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_has_its_subcommand_and_options(page):
    known = typer.main.get_command(cli.app).commands
    for name, *words in commands(page, "rapid-diffusion"):
        command = known[name]
        if hasattr(command, "commands"):  # a group: the next word is the command
            command = command.commands[words[0]]
        options = {text for option in command.params for text in option.opts}
        options |= {text for option in command.params for text in option.secondary_opts}
        assert {word for word in words if word.startswith("-")} <= options, (name, words)
    for words in commands(page, "python -m knowledge"):
        knowledge_cli._parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_script_and_make_target_exists(page):
    for name, *words in commands(page, "python -m"):
        if name.startswith(("recipes.", "benchmarks.")):
            source = read(ROOT / f"{name.replace('.', '/')}.py")
            options = [word for word in words if word.startswith("--")]
            assert [option for option in options if f'"{option}"' not in source] == []
    for target, *_ in commands(page, "make"):
        assert re.search(rf"^{target}:", read(ROOT / "Makefile"), re.M), target


def pointed_at(page: Path) -> set[str]:
    """Paths in the page: targets of links, whatever lies in a room, the lines of the file tree."""
    text = read(page)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    paths = {str((page.parent / link).resolve().relative_to(ROOT)) for link in links}
    paths |= set(re.findall(rf"[`\s]((?:{ROOMS})/[\w./-]+)", text))
    plain = re.findall(r"```\n(.*?)```", re.sub(r"```\w+\n.*?```", "", text, flags=re.S), re.S)
    top = ""
    for line in "".join(plain).splitlines():
        name = line.split()[0]
        top = top if line.startswith(" ") else name
        paths.add(top + name if line.startswith(" ") else name)
    return {path.rstrip("/.") for path in paths}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_exists(page):
    missing = [path for path in sorted(pointed_at(page)) if not (ROOT / path).exists()]
    coming = () if RESULTS.is_file() else COMING
    assert [path for path in missing if not path.startswith(coming)] == []


def test_the_body_of_curl_is_a_request_of_the_service():
    for page in (ENGLISH, CHINESE):
        (words,) = commands(page, "curl")
        request = GenerationRequest.model_validate_json(words[words.index("-d") + 1])
        assert (request.prompt, request.seed) == ("三维立体风格的老虎", 7)


def test_both_readmes_have_the_same_commands_and_numbers():
    for language in ("bash", "json"):
        english, chinese = (
            [block.split() for block in blocks(page, language)] for page in (ENGLISH, CHINESE)
        )
        assert english == chinese
    numbers = [[number for number, _ in table(page)] for page in (ENGLISH, CHINESE)]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_number_is_left_open_once_there_are_results(page):
    assert not RESULTS.is_file() or OPEN_NUMBER.findall(read(page)) == []


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
def test_own_data_are_prepared_at_the_sizes_that_the_copied_recipe_wants(page):
    prepare = next(w for w in commands(page, "rapid-diffusion data prepare") if "--size" in w)
    told = [prepare[prepare.index(option) + 1] for option in ("--size", "--large-size")]
    data = read_training_config(RECIPE / "config.toml").data
    assert [f"pictures_{side}.npy" for side in told] == [data.pictures, data.large_pictures]
    assert all(f"`{name}`" in read(page) for name in (data.pictures, data.large_pictures))
