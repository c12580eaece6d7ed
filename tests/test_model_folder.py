"""A model on disk: found, strictly read, written whole or not at all."""

import json
import resource
import shutil

import pytest
import torch

from rapid_diffusion import CheckpointError, InvalidRequestError, OutputError
from rapid_diffusion.checkpoints.folder import folder_digest, read_json, read_weights
from rapid_diffusion.checkpoints.manifest import check_manifest
from rapid_diffusion.components import find_model
from rapid_diffusion.model_folder import load_model, save_model, stored

WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "super_resolution": "model.safetensors",
}


@pytest.fixture
def folder(micro_model_folder, tmp_path):
    """A model folder that a test may spoil."""
    return shutil.copytree(micro_model_folder, tmp_path / "model")


@pytest.fixture
def model(micro_pipeline):
    return micro_pipeline.model


def change(path, **values):
    path.write_text(json.dumps(read_json(path) | values))


def refused(folder):
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_name_that_is_no_model_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(CheckpointError, match="embedded"):
        find_model("no-such-model")
    with pytest.raises(CheckpointError, match=r"has no model_index\.json"):
        find_model(tmp_path)


def test_the_shipped_student_is_its_teacher_with_another_unet_for_four_steps():
    student, teacher = (load_model(find_model(name)) for name in ("emoji-zh-4", "emoji-zh"))
    assert (student.card.num_inference_steps, student.card.guidance_scale) == (4, 1.0)
    assert student.card.teacher == f"emoji-zh {folder_digest(find_model('emoji-zh'))}"
    pairs = zip(student.denoiser.named_parameters(), teacher.denoiser.parameters(), strict=True)
    same = {name for (name, one), other in pairs if torch.equal(one, other)}
    shared = {n for n, _ in student.denoiser.named_parameters() if ".attentions." in n}
    drafts = {n for n, _ in student.denoiser.named_parameters() if n.startswith("draft.")}
    assert drafts | shared <= same < {n for n, _ in student.denoiser.named_parameters()}


def test_a_folder_that_is_no_model_does_not_hide_an_embedded_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("rapid_diffusion.components.EMBEDDED", tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert find_model("model") == folder


def test_a_diffusers_folder_without_our_card_is_named(folder):
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "has no `card`" in refused(folder)


@pytest.mark.parametrize("part", sorted(WEIGHTS))
@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "empty"])
def test_a_damaged_weight_file_is_named(folder, part, damage):
    file = folder / part / WEIGHTS[part]
    if damage == "missing":
        file.unlink()
    else:
        whole = file.read_bytes()
        parts = {"truncated": whole[:-7], "foreign": b"PK\x03\x04" + whole, "empty": b""}
        file.write_bytes(parts[damage])
    assert str(folder / part) in refused(folder)


@pytest.mark.parametrize("part", sorted(WEIGHTS))
@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"a": 1}', '{"_class_name": "Foreign"}']
)
def test_a_damaged_config_is_named(folder, part, content):
    config = folder / part / "config.json"
    if content is None:
        config.unlink()
    else:
        config.write_text(content)
    assert str(folder / part) in refused(folder)


@pytest.mark.parametrize("part", [*sorted(WEIGHTS), "tokenizer", "knowledge"])
def test_a_missing_component_is_named(folder, part):
    shutil.rmtree(folder / part)
    assert str(folder / part) in refused(folder)


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("text_encoder/config.json", {"vocabulary": 9999}, "text_encoder"),
        ("text_encoder/config.json", {"heads": 3}, "text_encoder"),
        ("text_encoder/config.json", {"layers": "1"}, "layers"),
        ("text_encoder/config.json", {"entity_dimension": 5}, "text_encoder"),
        ("unet/config.json", {"cross_attention_dim": 8}, "unet"),
        ("unet/config.json", {"in_channels": 4}, "unet"),
        ("vae/config.json", {"channels": 4}, "vae"),
        ("vae/config.json", {"patch": "4"}, "vae"),
        ("super_resolution/config.json", {"scale": 2}, "super_resolution"),
        ("model_index.json", {"card": {}}, "name"),
        ("model_index.json", {"card": []}, "ModelCard"),
        ("model_index.json", {"card": {"name": "x", "scheduler": "ddim"}}, "ddim"),
        ("model_index.json", {"card": {"name": "x", "shift": "1"}}, "shift"),
        ("model_index.json", {"card": {"name": "x", "colour": 1}}, "colour"),
    ],
)
def test_a_config_of_another_model_is_named(folder, file, values, told):
    change(folder / file, **values)
    assert told in refused(folder)


def test_a_part_of_another_model_is_named(folder, micro_pipeline, tmp_path):
    from rapid_diffusion.autoencoder import PatchAutoencoder, PatchConfig

    PatchAutoencoder(PatchConfig(4, 6)).save(folder / "vae")
    assert str(folder / "vae") in refused(folder)


def test_a_model_without_upscaler_and_graph_loads(model, tmp_path):
    save_model(type(model)(**{**vars(model), "upscaler": None, "graph": None}), tmp_path / "bare")
    bare = load_model(tmp_path / "bare")
    assert bare.upscaler is bare.graph is None


def test_saving_replaces_a_model_and_leaves_nothing_else_behind(model, folder, tmp_path):
    (folder / "stale.txt").touch()
    save_model(model, folder, "float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert not (folder / "stale.txt").exists()
    assert check_manifest(folder)


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_no_model_is_not_replaced(model, tmp_path, there):
    target = tmp_path / "precious"
    (target / "data.txt" if there == "folder" else target).parent.mkdir(exist_ok=True)
    (target / "data.txt" if there == "folder" else target).write_text("mine")
    with pytest.raises(OutputError, match="precious"):
        save_model(model, target)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_full_disk_leaves_the_old_model_whole(model, folder, tmp_path):
    before = folder_digest(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=str(folder)):
            save_model(model, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder_digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_rename_that_fails_brings_the_old_model_back(model, folder, tmp_path, monkeypatch):
    from pathlib import Path

    before, rename = folder_digest(folder), Path.rename

    def fail(path, target):
        if path.name.endswith(".partial"):
            raise PermissionError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="no"):
        save_model(model, folder)
    assert folder_digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_int8_is_for_large_kernels_and_the_rest_is_half():
    torch.manual_seed(0)
    weights = {
        "kernel": torch.randn(64, 64, 3, 3),
        "small": torch.randn(4, 4),
        "bias": torch.randn(5000),
        "count": torch.tensor(3),
    }
    narrow = stored(weights, "int8")
    assert {name: value.dtype for name, value in narrow.items()} == {
        "kernel": torch.int8,
        "kernel.scale": torch.float32,
        "small": torch.float16,
        "bias": torch.float16,
        "count": torch.int64,
    }
    assert stored(weights, "float32")["kernel"] is weights["kernel"]
    with pytest.raises(InvalidRequestError, match="storage"):
        stored(weights, "int4")


def test_a_models_files_say_their_storage(model, tmp_path):
    save_model(model, tmp_path / "half")
    assert (tmp_path / "half" / "unet" / WEIGHTS["unet"]).stat().st_size < 0.6 * 4 * sum(
        value.numel() for value in model.denoiser.state_dict().values()
    )
    weights = read_weights(tmp_path / "half" / "unet")
    assert all(value.dtype == torch.float32 for value in weights.values())
