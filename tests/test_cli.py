"""The command line: data on stdout, one clear line on stderr, exit codes that mean something."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from knowledge.builder import build_version
from knowledge.errors import DamagedVersionError, KnowledgeError
from knowledge.training import train_version
from knowledge.transe import TransEConfig
from rapid_diffusion import cli, errors
from rapid_diffusion.commands import doctor as doctor_module
from rapid_diffusion.testing import ALIASES, TRIPLES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def model(micro_model_folder):
    return str(micro_model_folder)


@pytest.fixture
def generate(model, tmp_path, capsys):
    """Run `generate` on the micro model; gives exit code, stdout and stderr."""

    def call(*arguments):
        code = cli.run(["generate", "--model", model, "--steps", "1", *arguments])
        return code, *capsys.readouterr()

    call.model = ("--model", model)
    return call


def test_one_prompt_becomes_one_file_and_its_name_is_printed(generate, tmp_path):
    file = tmp_path / "tiger.png"
    assert generate("老虎", "-o", str(file), "--seed", "7") == (0, f"{file}\n", "")
    with Image.open(file) as picture:
        assert picture.size == (64, 64)


def test_characters_that_the_model_does_not_know_are_told_on_stderr(generate, tmp_path):
    file = tmp_path / "tiger.png"
    code, out, error = generate("老虎龘", "-o", str(file))
    assert (code, out) == (0, f"{file}\n")
    assert error.count("龘") == 1
    _, out, _ = generate("老虎龘", "-o", str(file), "--json")
    assert json.loads(out)["unknown"] == ["龘"]


def test_json_tells_the_facts_of_each_picture(generate, tmp_path):
    code, out, _ = generate(
        "老虎", "猫", "-o", str(tmp_path), "--seed", "7", "--json", "--upscale", "1"
    )
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["prompt"], first["seed"], second["seed"]) == ("老虎", 7, 8)
    assert first["size"] == [16, 16]
    assert first["links"][0] == {
        "surface": "老虎", "start": 0, "end": 2, "key": "老虎", "name": "老虎", "score": 1.0
    }  # fmt: skip
    assert first["truncated"] is None
    assert first["seconds"] >= 0
    assert Path(second["file"]).is_file()


def test_another_graph_is_linked_to_and_checked_against(generate, tmp_path, capsys):
    version = build_version(TRIPLES, [*ALIASES, ("山君", "老虎", 0.9)], tmp_path / "graph")
    train_version(version, TransEConfig(dimension=8, epochs=2))
    file, other = str(tmp_path / "a.png"), ("--graph", str(tmp_path / "graph"))
    for graph, keys in ([], []), (other, ["老虎"]):
        _, out, _ = generate("山君", "-o", file, "--seed", "7", "--json", *graph)
        assert [link["key"] for link in json.loads(out)["links"]] == keys
    assert cli.run(["verify", file, *generate.model, *other]) == 0
    assert cli.run(["verify", file, *generate.model]) == 1
    assert "knowledge was " in capsys.readouterr().out


def test_count_counts_seeds_up_and_a_folder_is_made(generate, tmp_path):
    code, out, _ = generate(
        "老虎", "-o", str(tmp_path / "new/folder"), "--count", "2", "--seed", "3"
    )
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == ["0000-3.png", "0001-4.png"]


def test_an_adapter_draws_and_the_picture_names_it(
    generate, micro_adapter_folder, tmp_path, capsys
):
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for file, wish in zip(files, ([], ["--adapter", str(micro_adapter_folder)]), strict=True):
        assert generate("老虎", "-o", file, "--seed", "7", *wish)[0] == 0
    assert Path(files[0]).read_bytes() != Path(files[1]).read_bytes()
    cli.run(["inspect", files[1]])
    told = json.loads(capsys.readouterr().out)["parameters"]
    assert told["adapter"] == "random 0"
    assert told["adapter_digest"].startswith("sha256:")
    code, _, error = generate("老虎", "-o", files[0], "--adapter-scale", "1")
    assert (code, "adapter_scale" in error) == (2, True)


def test_without_knowledge_nothing_is_linked(generate, tmp_path):
    _, out, _ = generate("老虎", "-o", str(tmp_path / "a.png"), "--no-knowledge", "--json")
    assert json.loads(out)["links"] == []


def test_a_picture_tells_its_parameters_again(generate, tmp_path, capsys):
    generate("老虎", "-o", str(tmp_path / "a.png"), "--seed", "7")
    assert cli.run(["inspect", str(tmp_path / "a.png")]) == 0
    labels = json.loads(capsys.readouterr().out)
    assert labels["parameters"]["prompt"] == "老虎"
    assert labels["parameters"]["seed"] == 7
    assert labels["AIGC"]["Label"] == "1"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([""], "prompt"),
        (["  　"], "prompt"),
        (["虎" * 100_000], "prompt"),
        (["老虎\udce4"], "prompt"),
        (["老虎", "--seed", "-1"], "seed"),
        (["老虎", "--seed", str(2**53)], "seed"),
        (["老虎", "--steps", "0"], "steps"),
        (["老虎", "--guidance", "nan"], "guidance"),
        (["老虎", "--guidance", "many"], "guidance"),
        (["老虎", "--scheduler", "magic"], "scheduler"),
        (["老虎", "--upscale", "3"], "upscale"),
        (["老虎", "--count", "0"], "count"),
        (["老虎", "猫"], "output"),
        (["老虎", "-o", "tiger.bmp"], "output"),
    ],
)
def test_an_invalid_request_is_one_line_that_names_it_and_leaves_with_2(
    generate, tmp_path, arguments, named
):
    given = arguments if "-o" in arguments else [*arguments, "-o", str(tmp_path / "a.png")]
    code, out, err = generate(*given)
    assert (code, out) == (2, "")
    assert named in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_leaves_with_3(tmp_path, capsys):
    target = str(tmp_path / "a.png")
    assert cli.run(["generate", "老虎", "-o", target, "--model", "no-such-model"]) == 3
    assert "no-such-model" in capsys.readouterr().err


def test_an_impossible_place_leaves_with_4_before_anything_is_drawn(generate, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "missing" / "a.png", tmp_path / "file" / "folder"):
        code, out, err = generate("老虎", "-o", str(place))
        assert (code, out) == (4, "")
        assert str(place.parent) in err


def test_every_error_of_the_library_has_an_exit_code():
    expected = {
        errors.InvalidRequestError("seed", "x"): 2,
        errors.CheckpointError("model", "x"): 3,
        DamagedVersionError(Path("graph"), "x"): 3,
        errors.OutputError("x"): 4,
        errors.CanceledError("x"): 130,
        KeyboardInterrupt(): 130,
        errors.NumericalError("x"): 1,
        errors.MissingDependencyError("x"): 1,
        KnowledgeError("x"): 1,
        ZeroDivisionError("x"): 1,
    }
    assert {error: cli.exit_code(error) for error in expected} == expected


def test_an_unexpected_error_is_one_line_and_a_traceback_only_on_demand(
    monkeypatch, capsys, caplog, tmp_path
):
    monkeypatch.setattr("rapid_diffusion.images.label.read_labels", lambda _: 1 / 0)
    (tmp_path / "a.png").touch()
    assert cli.run(["inspect", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().err.startswith("rapid-diffusion: unexpected ZeroDivisionError")
    assert caplog.records == []
    assert cli.run(["--debug", "inspect", str(tmp_path / "a.png")]) == 1
    assert caplog.records[0].exc_info


def test_inspect_lists_the_parts_of_a_model(model, capsys):
    assert cli.run(["inspect", model]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"unet", "vae", "text_encoder"} <= {part["name"] for part in facts["components"]}
    assert facts["parameters"] == sum(part["parameters"] for part in facts["components"])
    assert facts["digest"].startswith("sha256:")
    assert facts["knowledge"]["version"]


def test_doctor_finds_the_micro_model_intact(model, capsys):
    assert cli.run(["doctor", "--model", model, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["intact"]
    assert report["threads"] >= 1
    assert report["attention"]["plain"]


def test_doctor_finds_a_flipped_byte_and_leaves_with_3(micro_model_folder, tmp_path, capsys):
    model = shutil.copytree(micro_model_folder, tmp_path / "model")
    weights = next((model / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert cli.run(["doctor", "--model", str(model)]) == 3
    assert f"NOT intact: {weights}" in capsys.readouterr().out


def test_doctor_says_how_to_install_what_is_missing(monkeypatch):
    lines = ["torch>=2", 'flash-attn>=2.7; extra == "flash"']
    monkeypatch.setattr(doctor_module.metadata, "requires", lambda _: lines)
    monkeypatch.setattr(doctor_module, "installed_version", lambda _: None)
    assert doctor_module.optional_packages() == [
        {
            "package": "flash-attn",
            "version": None,
            "install": "pip install 'rapid-diffusion[flash]'",
        }
    ]


def test_train_hands_its_arguments_to_the_training(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "rapid_diffusion.training.run.run", lambda *given, **named: calls.append((given, named))
    )
    (tmp_path / "recipe.toml").touch()
    assert cli.run(["train", str(tmp_path / "recipe.toml"), "--stage", "text", "--fresh"]) == 0
    assert calls == [((tmp_path / "recipe.toml", "text"), {"resume": False})]
    assert cli.run(["train", str(tmp_path / "missing.toml")]) == 2


def test_serve_takes_options_over_the_environment(monkeypatch):
    seen = []
    monkeypatch.setattr("server.main.run", seen.append)
    monkeypatch.setenv("RAPID_DIFFUSION_PORT", "1234")
    monkeypatch.setenv("RAPID_DIFFUSION_HOST", "::1")
    assert cli.run(["serve", "--host", "127.0.0.1"]) == 0
    assert (seen[0].host, seen[0].port, seen[0].model) == ("127.0.0.1", 1234, "emoji-zh-4")


def test_serve_and_finetune_hand_their_arguments_on(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr("server.main.run", seen.append)
    assert cli.run(["serve", "--adapter", "ink=a/b", "--adapter", "oil=c=d"]) == 0
    assert seen[0].adapters == {"ink": "a/b", "oil": "c=d"}
    assert cli.run(["serve", "--adapter", "ink"]) == 2
    monkeypatch.setattr("rapid_diffusion.training.finetune.run", lambda *given, **named: named)
    (tmp_path / "mine.toml").touch()
    capsys.readouterr()
    assert cli.run(["finetune", str(tmp_path / "mine.toml"), "--fresh"]) == 0
    assert json.loads(capsys.readouterr().out) == {"resume": False}


def test_serve_names_a_setting_that_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr("server.main.run", lambda settings: None)
    assert cli.run(["serve", "--port", "99999"]) == 2
    assert "port" in capsys.readouterr().err


def test_help_tells_the_exit_codes_and_loads_no_model_code():
    script = (
        "import sys; from rapid_diffusion import cli; code = cli.run(['generate', '--help']);"
        "assert not {'diffusers', 'transformers', 'server'} & set(sys.modules); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "Exit codes: 0 done" in run.stdout
