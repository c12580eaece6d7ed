"""A student of few steps: what it learns, what its folder says and shares, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from rapid_diffusion import CheckpointError, InvalidRequestError, RapidDiffusionPipeline
from rapid_diffusion.checkpoints.folder import (
    folder_digest,
    read_json,
    read_weights,
    storage_of,
    write_json,
)
from rapid_diffusion.commands.inspect import model_facts
from rapid_diffusion.components import components_of
from rapid_diffusion.errors import OutputError
from rapid_diffusion.text.encoder import TextStates
from rapid_diffusion.training.distil import Distilling, read_distil_config, run
from rapid_diffusion.training.distil_stages import Teacher, consistency_loss, moment_at
from rapid_diffusion.training.loop import CHECKPOINT

CONFIG = """
name = "{name}"
[data]
pictures = "small.npy"
[loops.distil]
steps = {steps}
batch = 8
learning_rate = 2e-3
warmup = 1
log_every = 1
checkpoint_seconds = 0
sample_every = {steps}
"""


@pytest.fixture(scope="module")
def domain(micro_model_folder, tmp_path_factory):
    """A folder with the teacher `teacher` and the sentences `data`."""
    root = tmp_path_factory.mktemp("distil")
    shutil.copytree(micro_model_folder, root / "teacher")
    (root / "data").mkdir()
    np.save(root / "data" / "small.npy", np.zeros((3, 16, 16, 3), np.uint8))
    rows = [{"captions": [f"卡通{name}"], "entity": name} for name in ("老虎", "猫", "红苹果")]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (root / "data" / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return root


def distil(root, out, loop_steps=3, name="quick", model=None, **options):
    path = root / f"{out}-{loop_steps}.toml"
    path.write_text(CONFIG.format(steps=loop_steps, name=name))
    return run(model or root / "teacher", root / "data", root / out, path, **options)


@pytest.fixture(scope="module")
def student(domain):
    """The folder of a student that learned for three steps."""
    distil(domain, "student", steps=2)
    return domain / "student"


def test_the_student_comes_nearer_to_where_the_teacher_leads(student, domain):
    config = read_distil_config(domain / "student-3.toml", domain / "data")
    distilling = Distilling(domain / "teacher", domain / "none", config, 2)
    network = distilling.student()
    stage = distilling.stage(distilling.teacher(), network)
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learning, 3e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(loss := stage.loss(0))
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def straight_to(goal):
    """A denoiser whose every estimate is `goal`."""

    def network(latents, timesteps, hidden, mask, drafts=None):
        return (latents - goal) / (timesteps / 1000)[:, None, None, None]

    network.drafts = lambda hidden: None
    return network


def moment(teacher, steps, place):
    """Five rows of a student's at the teacher's stop `place`."""
    states = TextStates(torch.zeros(5, 2, 4), torch.ones(5, 2, dtype=torch.bool))
    clean, noise = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return moment_at(torch.full((5,), place), teacher, steps, clean, noise, states)


@pytest.mark.parametrize("steps", [1, 3])
def test_who_leads_where_the_teacher_leads_has_no_loss_anywhere(steps):
    blank = TextStates(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    teacher = Teacher(straight_to(0.5), 3.0, 2.0, blank)
    inner = teacher.times(steps)[1]
    for place in range(steps * inner):
        at = moment(teacher, steps, place)
        assert consistency_loss(straight_to(0.5), teacher, at) < 1e-10
        other = consistency_loss(straight_to(0.3), teacher, at)
        if (place + 1) % inner == 0:  # the teacher alone leads to the end of the stretch
            assert other == pytest.approx(0.04, rel=1e-4)
        else:  # the student's own word counts for the rest of the way
            assert 0 < other < 0.04


def test_a_moment_is_on_the_way_from_noise_to_the_picture_and_in_its_stretch():
    blank = TextStates(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    teacher = Teacher(straight_to(0.5), 3.0, 2.0, blank)
    times, inner = teacher.times(4)
    assert (times[0], times[-1], inner, len(times)) == (1, 0, 2, 9)
    first, last = moment(teacher, 4, 0), moment(teacher, 4, 7)
    assert torch.equal(first.end, times[2].expand(5))
    assert (first.here[0], first.there[0]) == (1, times[1])
    assert torch.equal(last.end, torch.zeros(5))
    clean, noise = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.latents, noise)
    assert torch.allclose(last.latents, (1 - times[7]) * clean + times[7] * noise)


def test_its_folder_is_a_model_with_its_own_defaults(student, domain):
    pipe = RapidDiffusionPipeline.from_pretrained(student)
    wanted = {"num_inference_steps": 2, "guidance_scale": 1.0, "scheduler": "flow_euler"}
    assert {key: pipe.default_parameters[key] for key in wanted} == wanted
    assert pipe.name == "quick"
    assert pipe.model.card.teacher == f"micro {folder_digest(domain / 'teacher')}"
    assert model_facts(str(student))["teacher"] == pipe.model.card.teacher
    assert len(pipe("卡通猫", seed=0).images) == 1


def test_a_step_of_the_student_is_one_row(student):
    pipe = RapidDiffusionPipeline.from_pretrained(student)
    rows = []
    pipe.model.denoiser.network.register_forward_pre_hook(
        lambda _, given: rows.append(len(given[0]))
    )
    pipe("卡通猫", seed=0)
    assert rows == [1, 1]


def test_what_the_sentence_says_to_which_place_stays_the_teachers(student, domain):
    before, after = read_weights(domain / "teacher" / "unet"), read_weights(student / "unet")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if ".attentions." in name]
    for part in ("draft", "text_encoder", "vae"):
        assert folder_digest(student / part) == folder_digest(domain / "teacher" / part)


def test_killed_and_resumed_it_ends_in_the_same_weights(domain):
    distil(domain, "whole", 4)
    distil(domain, "halves", 2)
    distil(domain, "halves", 4)
    halves, whole = (folder_digest(domain / name / "unet") for name in ("halves", "whole"))
    assert halves == whole
    assert (domain / "whole-training" / "stages" / "distil" / "samples" / "4.png").is_file()
    assert (domain / "whole-training" / "progress.html").is_file()


def test_a_checkpoint_of_another_number_of_steps_is_refused(domain):
    distil(domain, "other", 1)
    with pytest.raises(CheckpointError, match=r"steps was 4 and is 2.*--fresh"):
        distil(domain, "other", 1, steps=2)
    assert distil(domain, "other", 1, steps=2, resume=False)["num_inference_steps"] == 2
    assert (domain / "other-training" / "stages" / "distil" / CHECKPOINT).is_file()


def test_a_shared_student_draws_the_same_from_its_own_few_weights(domain):
    distil(domain, "alone", 2)
    distil(domain, "thin", 2, shared=True)
    assert [path.name for path in (domain / "thin").iterdir() if path.is_dir()] == ["unet"]
    alone, thin = (RapidDiffusionPipeline.from_pretrained(domain / n) for n in ("alone", "thin"))
    pixels = [pipe("卡通猫", seed=0, output_type="numpy").images[0] for pipe in (alone, thin)]
    assert np.array_equal(*pixels)
    assert {part["name"] for part in model_facts(str(domain / "thin"))["components"]} >= {"vae"}


def test_a_shared_student_needs_the_very_teacher(domain, tmp_path):
    distil(domain, "far", 1, shared=True)
    shutil.copytree(domain / "far", tmp_path / "far")
    with pytest.raises(CheckpointError, match=r"base 'micro' beside it.*there is none"):
        components_of(tmp_path / "far")
    shutil.copytree(domain / "teacher", tmp_path / "teacher")
    assert components_of(tmp_path / "far")["vae"] == tmp_path / "teacher" / "vae"
    file = tmp_path / "teacher" / "vae" / "config.json"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match="differ from it"):
        RapidDiffusionPipeline.from_pretrained(tmp_path / "far")


def test_a_student_can_be_a_teacher(student, domain):
    card = distil(domain, "grandchild", 1, model=student, steps=1)
    assert (card["num_inference_steps"], card["teacher"].split()[0]) == (1, "quick")


def test_a_model_that_is_no_flow_is_refused(domain, tmp_path):
    shutil.copytree(domain / "teacher", tmp_path / "other")
    index = read_json(tmp_path / "other" / "model_index.json")
    index["card"]["scheduler"] = "ddim"
    write_json(tmp_path / "other" / "model_index.json", index)
    with pytest.raises(CheckpointError, match="scheduler 'ddim'; known are"):
        distil(domain, "none", 1, model=tmp_path / "other")


@pytest.mark.parametrize("steps", [0, 9])
def test_a_number_of_steps_that_makes_no_student_is_refused(domain, steps):
    with pytest.raises(InvalidRequestError, match=r"steps: .*allowed: 1 to 8"):
        distil(domain, "none", 1, steps=steps)


def test_an_unknown_key_is_named(domain):
    path = domain / "bad.toml"
    path.write_text("objective = 'magic'\n")
    with pytest.raises(InvalidRequestError, match="objective"):
        run(domain / "teacher", domain / "data", domain / "none", path)


def test_the_storage_is_the_teachers(domain, micro_pipeline, tmp_path):
    for storage in ("float32", "float16", "int8"):
        micro_pipeline.save_pretrained(tmp_path / storage, storage)
        assert storage_of(tmp_path / storage / "unet") in (storage, "float16")


def test_what_could_not_be_written_or_opened_is_refused_before_it_learns(domain, student, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"shared: .*beside the student: give --out"):
        run(domain / "teacher", domain / "data", tmp_path / "far", shared=True)
    distil(domain, "half", 1, shared=True)
    with pytest.raises(InvalidRequestError, match="shares the parts of another"):
        distil(domain, "quarter", 1, model=domain / "half", shared=True)
    with pytest.raises(OutputError, match="give another name"):
        run(domain / "teacher", domain / "data", domain / "data")
    assert not (tmp_path / "far-training").exists()
