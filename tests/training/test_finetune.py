"""A model goes on learning: what learns, what stays, what is reported, what is refused."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rapid_diffusion import CheckpointError, InvalidRequestError, RapidDiffusionPipeline
from rapid_diffusion.model_folder import load_model
from rapid_diffusion.training.finetune import Finetuning, run
from rapid_diffusion.training.finetune_config import read_finetune_config
from rapid_diffusion.training.finetune_data import open_source, report_captions, spread
from rapid_diffusion.training.loop import averaged_weights
from rapid_diffusion.training.stages import stage_folder, velocity

CONFIG = """
start = "{start}"
method = "{method}"
output = "{output}"
[result]
name = "mine"
license = "CC0"
storage = "float32"
[data]
folder = "{new}"
pictures = "small.npy"
[lora]
rank = 2
alpha = 4
[loops.draft]
steps = {steps}
batch = 4
learning_rate = 2e-2
warmup = 1
[loops.diffusion]
steps = {steps}
batch = 4
learning_rate = 2e-2
warmup = 1
"""
OLD = '[old]\nfolder = "{old}"\npictures = "small.npy"\nshare = 0.5\n'


def write_data(folder, style, count=10):
    """Pictures of 16 px, the last two held out."""
    folder.mkdir()
    generator = np.random.default_rng(len(style))
    np.save(folder / "small.npy", generator.integers(0, 256, (count, 16, 16, 3), np.uint8))
    rows = [
        {
            "captions": [f"{style}的{name}", f"一个{name}，{style}"],
            "entity": name,
            "split": "held_out" if number >= count - 2 else "train",
        }
        for number, name in zip(range(count), ["老虎", "猫", "红苹果"] * count, strict=False)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    return {"new": write_data(root / "new", "墨风格"), "old": write_data(root / "old", "卡通风格")}


def config_text(folders, start, output, method="lora", steps=3, old=True):
    text = CONFIG.format(start=start, method=method, steps=steps, output=output, **folders)
    return text + (OLD.format(**folders) if old else "")


@pytest.fixture
def write_finetune(micro_model_folder, folders, tmp_path):
    """`write_finetune(method, steps, output)` -> path of a configuration file."""

    def write(method="lora", steps=3, output="run", old=True):
        path = tmp_path / f"{output}.toml"
        path.write_text(
            config_text(folders, micro_model_folder, tmp_path / output, method, steps, old)
        )
        return path

    return write


@dataclass
class Finished:
    """A LoRA after three steps: its configuration, its modules, its report, its folder."""

    path: Path
    tuning: Finetuning
    report: dict
    output: Path


@pytest.fixture(scope="module")
def finished(micro_model_folder, folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    path = root / "lora.toml"
    path.write_text(config_text(folders, micro_model_folder, root / "run"))
    tuning = Finetuning(read_finetune_config(path))
    return Finished(path, tuning, tuning.run(resume=True), root / "run")


def changed_parts(before, after):
    """The networks in which a weight differs."""
    parts = {
        "unet": lambda model: model.denoiser.network,
        "draft": lambda model: model.denoiser.draft,
        "text": lambda model: model.text_encoder,
    }
    return {
        name
        for name, part in parts.items()
        if any(
            not torch.equal(value, part(after).state_dict()[key])
            for key, value in part(before).state_dict().items()
        )
    }


def test_a_lora_is_an_adapter_that_the_pipeline_draws_with(finished, micro_model_folder):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipe.load_adapter(finished.output / "adapter", "mine")
    card = pipe.adapters["mine"]
    assert (card.name, card.license, card.base.digest) == ("mine", "CC0", pipe.digest)
    base, adapted = (
        pipe("卡通猫", seed=0, adapter=name, output_type="numpy").images for name in (None, "mine")
    )
    assert not np.array_equal(base, adapted)
    networks = sorted(path.name for path in (finished.output / "adapter").iterdir())
    assert networks == ["adapter.json", "draft", "text_encoder", "unet"]


def test_the_merged_adapter_is_the_network_that_peft_trained(finished, micro_model_folder):
    """Our reader against the branches themselves, and against `peft`'s own reader."""
    from peft import PeftModel

    adapter = finished.output / "adapter"
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipe.load_adapter(adapter, "mine")
    tokens = pipe.tokenize(["卡通猫", "墨风格的老虎"])
    noise, times = torch.randn(2, 8, 4, 4), torch.tensor([900.0, 100.0])
    outputs = []
    peft_reads = load_model(micro_model_folder)
    PeftModel.from_pretrained(peft_reads.denoiser.network, adapter / "unet")
    PeftModel.from_pretrained(peft_reads.denoiser.draft, adapter / "draft")
    PeftModel.from_pretrained(peft_reads.text_encoder, adapter / "text_encoder")
    with torch.no_grad(), pipe._adapters.applied("mine"):
        for model in (finished.tuning.model, pipe.model, peft_reads):
            model.denoiser.eval()
            states = model.text_encoder.encode(tokens)
            outputs.append(model.denoiser(noise, times, states.hidden, states.mask))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert torch.allclose(outputs[0], outputs[2], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "parts"), [("full", {"unet", "draft", "text"}), ("text", {"text"})]
)
def test_a_method_changes_what_it_says_and_nothing_else(
    write_finetune, micro_model_folder, tmp_path, method, parts
):
    run(write_finetune(method, steps=2))
    before, after = load_model(micro_model_folder), load_model(tmp_path / "run" / "model")
    assert changed_parts(before, after) == parts
    assert after.card.name == "mine"
    assert after.card.license == "Apache-2.0 + CC0"
    gate = after.text_encoder.injection.gate
    assert not torch.equal(gate, before.text_encoder.injection.gate)
    RapidDiffusionPipeline.from_pretrained(tmp_path / "run" / "model")("卡通猫", seed=0)


def test_learning_lowers_the_loss_that_is_reported(write_finetune):
    losses = run(write_finetune("full", steps=40, old=False))["loss"]
    assert losses["new_train"]["after"]["draft"] < losses["new_train"]["before"]["draft"]
    assert losses["new_train"]["after"]["loss"] < losses["new_train"]["before"]["loss"]


def test_the_report_tells_both_domains_and_what_cannot_be_read(finished):
    report = finished.report
    assert report == json.loads((finished.output / "report.json").read_text())
    assert set(report["loss"]) == {"new_held_out", "new_train", "old_held_out"}
    assert report["loss"]["old_held_out"]["before"]["rows"] == 2
    assert report["captions"]["unknown_characters"] == {"墨": 20}
    assert report["captions"]["with_unknown_characters"] == 20
    assert "墨" in finished.tuning.captions.warning()


def test_without_old_data_the_report_says_that_it_was_not_measured(write_finetune):
    report = run(write_finetune(steps=1, old=False))
    assert "not measured" in report["old_domain"]
    assert not any(key.startswith("old_") for key in report["loss"])


@pytest.mark.parametrize("method", ["lora", "text"])
def test_a_finetuning_in_two_parts_is_that_in_one(write_finetune, tmp_path, method):
    for output, lengths in (("whole", [4]), ("parts", [2, 4])):
        for steps in lengths:
            path = write_finetune(method, steps, output)
            tuning = Finetuning(read_finetune_config(path))
            tuning._learn("diffusion", resume=True)
    folders = [stage_folder(tmp_path / output, "diffusion") for output in ("whole", "parts")]
    one, two = map(averaged_weights, folders)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_holds_only_what_learns(finished):
    names = averaged_weights(stage_folder(finished.output, "draft")).keys()
    assert names
    assert all("/lora_" in name for name in names)


def test_rehearsal_takes_its_share_of_every_batch(finished):
    mixture, loop = finished.tuning.mixture, finished.tuning.config.loop("draft")
    tokens, latents = mixture.batch(0, loop, torch.Generator().manual_seed(0))
    assert (len(tokens.ids), len(latents), len(tokens.truncated)) == (4, 4, 4)
    old = mixture.old.latents
    from_old = [any(torch.equal(row, other) for other in old) for row in latents]
    assert from_old == [False, False, True, True]


def test_old_rows_are_held_to_what_the_model_said_and_new_ones_to_their_pictures(write_finetune):
    tuning = Finetuning(read_finetune_config(write_finetune()))
    lesson, loop = tuning.lesson, tuning.config.loop("diffusion")
    tokens, clean = tuning.mixture.batch(0, loop, torch.Generator().manual_seed(0))
    noise, times = torch.randn(clean.shape), torch.tensor([0.2, 0.4, 0.6, 0.8])
    with torch.no_grad():
        states = lesson.memory.encoder.encode(tokens)
        drafts = lesson.memory.denoiser.drafts(states.hidden)
        said = velocity(lesson.memory.denoiser, states, clean, noise, times)
    for wanted, truth, remembered in (
        (lesson.latents(tokens, clean), clean, drafts),
        (lesson.velocity(tokens, clean, noise, times), noise - clean, said),
    ):
        assert torch.equal(wanted[:2], truth[:2])
        assert torch.allclose(wanted[2:], remembered[2:], atol=1e-5)


def test_what_is_remembered_does_not_learn(finished, micro_model_folder):
    base = load_model(micro_model_folder)
    remembered = finished.tuning.lesson.memory.denoiser.state_dict()
    assert all(torch.equal(remembered[k], v) for k, v in base.denoiser.state_dict().items())


def test_another_method_or_start_in_the_same_output_is_refused(
    finished, micro_model_folder, tmp_path
):
    text = finished.path.read_text()
    path = tmp_path / "other.toml"
    path.write_text(text.replace('"lora"', '"text"'))
    with pytest.raises(InvalidRequestError, match=r"method.*--fresh"):
        run(path)
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    pipe.model.text_encoder.injection.gate.data.fill_(0.5)
    pipe.save_pretrained(tmp_path / "other")
    path.write_text(text.replace(str(micro_model_folder), str(tmp_path / "other")))
    with pytest.raises(InvalidRequestError, match=r"base.*--fresh"):
        run(path)


def test_targets_are_kept_and_names_of_no_layer_are_refused(write_finetune, tmp_path):
    path = write_finetune(steps=1)
    text = path.read_text()
    path.write_text(text.replace("rank = 2", 'rank = 2\ntargets = ["to_q", "query"]'))
    tuning = Finetuning(read_finetune_config(path))
    assert set(tuning.branches.networks) == {"unet", "text_encoder"}
    config = tuning.branches.networks["text_encoder"].peft_config["default"]
    assert config.target_modules == {"tower.encoder.layer.0.attention.self.query"}
    path.write_text(text.replace("rank = 2", 'rank = 2\ntargets = ["nothing"]'))
    with pytest.raises(InvalidRequestError, match=r"lora\.targets"):
        run(path)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('method = "lora"', 'method = "dora"', "method"),
        ("rank = 2", "rank = 0", "lora.rank"),
        ("share = 0.5", "share = 1.0", "old.share"),
        ("[loops.draft]", "[loops.dream]", "loops.draft"),
        ('name = "mine"', 'names = "mine"', "result.names"),
        ("[lora]", "[laura]", "laura"),
        ('output = "', 'outputs = "', "outputs"),
    ],
)
def test_a_wrong_key_is_named(write_finetune, old, new, field):
    path = write_finetune()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InvalidRequestError) as caught:
        run(path)
    assert caught.value.field == field


def test_pictures_of_another_size_are_refused(write_finetune, folders, tmp_path):
    wrong = shutil.copytree(folders["new"], tmp_path / "wrong")
    np.save(wrong / "small.npy", np.zeros((10, 32, 32, 3), np.uint8))
    path = write_finetune()
    path.write_text(path.read_text().replace(str(folders["new"]), str(wrong)))
    with pytest.raises(CheckpointError, match=r"small\.npy.*16"):
        run(path)


def test_an_entity_that_the_graph_does_not_know_is_counted(finished, folders, tmp_path):
    strange = shutil.copytree(folders["new"], tmp_path / "strange")
    text = (strange / "metadata.jsonl").read_text().replace('"entity": "猫"', '"entity": "狗"')
    (strange / "metadata.jsonl").write_text(text)
    config = replace(finished.tuning.config.data, folder=str(strange))
    source = open_source(config, load_model(Path(finished.tuning.config.start)))
    assert report_captions(source).unknown_entities == 3


def test_spread_takes_both_ends_and_keeps_short_lists():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([5, 6], 4) == [5, 6]
