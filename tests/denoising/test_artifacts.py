"""Compiled ahead of time: the same pictures, and nothing stale, foreign or damaged is loaded."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rapid_diffusion import RapidDiffusionPipeline, cli
from rapid_diffusion.adapters import Adapters
from rapid_diffusion.artifacts import building, loading, manifest
from rapid_diffusion.artifacts.building import parts_of, write_artifacts, write_parts
from rapid_diffusion.artifacts.identity import default_folder, made_for
from rapid_diffusion.artifacts.loading import CompiledPart, Runner
from rapid_diffusion.denoising.compiled import compile_network, mark_folded, plain_copy
from rapid_diffusion.denoising.denoiser import load_denoiser
from rapid_diffusion.errors import (
    ArtifactError,
    CheckpointError,
    InvalidRequestError,
    OutputError,
)
from rapid_diffusion.model_folder import load_model, save_model
from rapid_diffusion.precision import fast_dtype

CPU, FLOAT32 = torch.device("cpu"), torch.float32
DTYPE = fast_dtype(CPU)  # what a pipeline without a `dtype` takes here
ALL = ("text_encoder", "unet", "vae", "super_resolution", "image_tower")


@pytest.fixture(scope="session")
def compiled(micro_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro model's decoder, compiled once: a UNet takes a minute. Copy it to change it."""
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("artifacts") / "micro"
    # Without what pays with many parts, or at run time only.
    quick = {"aot_inductor.precompile_headers": False, "cpp_cache_precompile_headers": False}
    options = building.options(folded=False) | quick
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "options", lambda folded: options)
        patch.setattr(building, "parts_of", lambda *given: {"vae-1": parts_of(*given)["vae-1"]})
        command = ["compile", str(micro_model_folder), "--out", str(folder), "--device", "cpu"]
        assert cli.run(command) == 0
    return folder


@pytest.fixture
def changed(compiled: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the artifacts whose manifest, still whole, says something else."""

    def change(shape: list[int] | None = None, **made: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(compiled, folder)
        told = json.loads((folder / manifest.MANIFEST).read_bytes())
        if shape is not None:
            told["parts"]["vae-1"]["constants"]["network.mean"]["shape"] = shape
        manifest.write_artifact_manifest(folder, told["made_for"] | made, told["parts"])
        return folder

    return change


def opened(model: Path, artifacts: Path | str | None) -> RapidDiffusionPipeline:
    return RapidDiffusionPipeline.from_pretrained(model, device=CPU, artifacts=artifacts)


def test_a_compiled_part_draws_the_same_pictures_and_is_named(compiled, micro_model_folder):
    eager, fast = opened(micro_model_folder, None), opened(micro_model_folder, compiled)
    pixels = [pipe(["老虎", "猫"], seed=1, output_type="numpy").images for pipe in (eager, fast)]
    assert abs(pixels[0].astype(int) - pixels[1].astype(int)).max() <= 1
    assert fast.origin["engine"].endswith(f"artifacts {fast.origin['artifacts'][7:19]}")
    assert "artifacts" not in eager.origin


def test_weights_stay_outside_so_a_change_in_place_counts_at_once(compiled, micro_model_folder):
    pipe = opened(micro_model_folder, compiled)
    latents = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    before = pipe.model.autoencoder.decode(latents)
    pipe.model.autoencoder.mean += 0.5
    assert torch.allclose(pipe.model.autoencoder.decode(latents), before + 0.5, atol=1e-5)
    assert sum(file.stat().st_size for file in compiled.rglob("*.so")) < 5_000_000


def test_another_size_is_an_error_and_not_garbage(compiled, micro_model_folder):
    pipe = opened(micro_model_folder, compiled)
    with pytest.raises(InvalidRequestError, match="compiled for rows of"):
        pipe.model.autoencoder.decode(torch.zeros(1, 8, 5, 4))
    with pytest.raises(InvalidRequestError, match="open the model anew"):
        pipe.to("cpu", torch.bfloat16)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip, "differs from its checksum"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "differs from its checksum"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: shutil.copy(file, file.with_name("more.so")), "more.so: is not in"),
    ],
    ids=["a flipped bit", "cut short", "gone", "one more"],
)
def test_a_library_that_is_not_as_it_was_written_is_not_loaded(
    damage, says, changed, micro_model_folder
):
    folder = changed()
    damage(next(folder.rglob("*.so")))
    with pytest.raises(ArtifactError, match=says):
        opened(micro_model_folder, folder)


def test_every_flipped_byte_of_the_manifest_is_noticed(changed, micro_model_folder):
    folder = changed()
    whole = (folder / manifest.MANIFEST).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        if not chr(whole[place]).isspace():
            flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            (folder / manifest.MANIFEST).write_bytes(flipped)
            with pytest.raises(ArtifactError):
                loading.read_artifacts(folder, micro_model_folder, CPU, DTYPE)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"torch": "2.1.0"}, "torch is '2.1.0', here"),
        ({"device": "cuda"}, "device is 'cuda', here 'cpu'"),
        ({"processor": ["avx9000"]}, "processor lacks avx9000"),
        ({"dtype": "float16"}, "dtype is 'float16', here "),
        ({"architecture": "sha256:other"}, "architecture is 'sha256:other', here"),
        ({"weights": "folded", "digest": "sha256:other"}, "digest is 'sha256:other', here"),
    ],
)
def test_a_foreign_artifact_is_refused_by_what_differs(made, says, changed, micro_model_folder):
    with pytest.raises(ArtifactError, match=f"{says}.*rapid-diffusion compile"):
        opened(micro_model_folder, changed(**made))


def test_weights_of_another_shape_than_was_compiled_are_not_read(changed, micro_model_folder):
    with pytest.raises(ArtifactError, match=r"network.mean is torch.float32 \(48,\) in the model"):
        opened(micro_model_folder, changed(shape=[47]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the commands would take the GPU")
def test_the_command_line_draws_with_artifacts_and_verifies_like_with_like(
    compiled, micro_model_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    file, model = str(tmp_path / "a.png"), ["--model", str(micro_model_folder)]
    with_artifacts = ["--artifacts", str(compiled)]
    assert cli.run(["generate", "老虎", "-o", file, *model, *with_artifacts]) == 0
    assert cli.run(["verify", file, *model, *with_artifacts]) == 0
    assert "engine was" not in capsys.readouterr().out
    cli.run(["verify", file, *model])
    assert "engine was" in capsys.readouterr().out
    assert cli.run(["generate", "老虎", "-o", file, *model, "--artifacts", str(tmp_path)]) == 3
    assert "has no artifacts.json" in capsys.readouterr().err


def test_folded_weights_refuse_adapters(micro_model_folder, micro_adapter_folder):
    adapters = Adapters(load_model(micro_model_folder))
    name = adapters.load(micro_adapter_folder, None, micro_model_folder)
    mark_folded(adapters.model.denoiser)
    with pytest.raises(InvalidRequestError, match="folded in"), adapters.applied(name):
        pass


def test_auto_uses_the_default_folder_and_else_warns_once(
    compiled, micro_model_folder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        pipes = [opened(micro_model_folder, "auto") for _ in range(2)]
    assert [pipe.artifacts for pipe in pipes] == [None, None]
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    home = default_folder("micro", made_for(micro_model_folder, CPU, DTYPE))
    shutil.copytree(compiled, home)
    found = opened(micro_model_folder, "auto").artifacts
    assert found is not None
    assert found.folder == home


def test_a_model_of_other_sizes_has_another_key_and_other_weights_have_not(
    micro_model_folder, tmp_path
):
    model = load_model(micro_model_folder)
    torch.nn.init.normal_(model.denoiser.network.conv_out.weight)
    save_model(model, tmp_path / "trained")
    shutil.copytree(micro_model_folder, tmp_path / "other")
    sizes = tmp_path / "other" / "unet" / "config.json"
    sizes.write_text(sizes.read_text().replace('"sample_size": 4', '"sample_size": 8'))
    folders = (micro_model_folder, tmp_path / "trained", tmp_path / "other")
    keys = [made_for(folder, CPU, FLOAT32).key for folder in folders]
    assert keys[0] == keys[1] != keys[2]
    folded = [made_for(folder, CPU, FLOAT32, "folded").key for folder in folders]
    assert len({*keys, *folded}) == 5


def test_each_part_is_compiled_for_inputs_that_it_takes(micro_model_folder):
    parts = parts_of(load_model(micro_model_folder), [2, 8])
    assert {name.rpartition("-")[0] for name in parts} == set(ALL)
    for name, part in parts.items():
        output = getattr(part.network, part.method)(*part.inputs)
        assert len(output) == len(part.inputs[0]) == int(name.rpartition("-")[2])


def test_a_config_that_gives_no_sizes_is_named(micro_model_folder, tmp_path):
    shutil.copytree(micro_model_folder / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "config.json"
    file.write_text(json.dumps({"block_out_channels": [8], "in_channels": 4}))
    with pytest.raises(CheckpointError, match=r"out_channels, sample_size.*without artifacts"):
        load_denoiser(tmp_path / "unet", bare=True)


def test_nothing_is_compiled_into_a_folder_of_something_else(micro_model_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    made = made_for(micro_model_folder, CPU, FLOAT32)
    with pytest.raises(OutputError):
        write_parts({}, made, tmp_path)
    with pytest.raises(InvalidRequestError, match="rows"):
        write_artifacts(load_model(micro_model_folder), made, tmp_path / "new", [0])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class Doubling:
    """What the loader of torch offers, in Python: twice the rows, and how many came."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def boxed_run(self, inputs: list[Tensor]) -> list[Tensor]:
        self.calls.append(len(inputs[0]))
        return [2 * inputs[0]]


@pytest.mark.parametrize("rows", range(1, 12))
def test_any_number_of_rows_is_called_in_the_sizes_that_were_compiled(rows):
    loader = Doubling()
    part = CompiledPart(
        "unet", [Runner(loader.boxed_run, n, [(3,)], [FLOAT32], {}) for n in (4, 2)]
    )
    given = torch.randn(rows, 3)
    assert torch.equal(part(given), 2 * given)
    assert set(loader.calls) == ({2} if rows <= 2 else {4})


def test_bare_networks_need_neither_diffusers_nor_transformers(
    micro_model_folder, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "diffusers", None)  # an import is then an error
    monkeypatch.setitem(sys.modules, "transformers", None)
    bare = load_model(micro_model_folder, bare=ALL)
    save_model(bare, tmp_path / "saved", "float32")
    for file in micro_model_folder.rglob("*.safetensors"):
        same = tmp_path / "saved" / file.relative_to(micro_model_folder)
        assert same.read_bytes() == file.read_bytes()
    with pytest.raises(InvalidRequestError, match="was not compiled"):
        bare.denoiser.network()


def test_an_adapter_changes_bare_networks_as_it_does_built_ones(
    micro_model_folder, micro_adapter_folder
):
    states = []
    for components in ((), ALL):
        adapters = Adapters(load_model(micro_model_folder, bare=components))
        name = adapters.load(micro_adapter_folder, None, micro_model_folder)
        with adapters.applied(name):
            weights = [network.state_dict() for network in adapters.networks.values()]
            states.append({k: v.clone() for state in weights for k, v in state.items()})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, once a process
def test_a_compiled_denoiser_has_a_plain_copy_for_the_retry_in_float32(micro_model_folder):
    denoiser, bare = (
        load_model(micro_model_folder, bare=components).denoiser for components in ((), ["unet"])
    )
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 8, 4, 4, generator=generator), torch.full((2,), 500.0)
    states = torch.randn(2, 16, 16, generator=generator), torch.ones(2, 16, dtype=torch.bool)
    wanted = denoiser(*inputs, *states)
    bare.forward = lambda *_: None
    compile_network(denoiser)
    for compiled_one in (denoiser, bare):
        assert torch.equal(plain_copy(compiled_one)(*inputs, *states), wanted)
