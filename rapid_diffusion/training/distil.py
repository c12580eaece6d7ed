"""`rapid-diffusion distil MODEL`: a student that draws in few steps, without guidance.

Writes the student's folder OUT and, beside it, `OUT-training/`: checkpoints, log and samples of
the one loop, and `progress.html`. Killed at any moment, the same call goes on.
"""

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rapid_diffusion.checkpoints.folder import folder_digest, load_strict, storage_of
from rapid_diffusion.components import INDEX, components_of, find_model, finds_base
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.files import check_replaceable
from rapid_diffusion.model_folder import load_model, save_model, save_shared
from rapid_diffusion.training.config import (
    DataConfig,
    LoopConfig,
    read_loops,
    read_section,
    read_toml,
)
from rapid_diffusion.training.distil_stages import Teacher, distil_stage
from rapid_diffusion.training.finetune_data import open_examples_of
from rapid_diffusion.training.loop import run_loop
from rapid_diffusion.training.page import ProgressPage
from rapid_diffusion.training.samples import Sampler, sample_captions
from rapid_diffusion.training.stages import Stage, encode_short, stage_folder

NAME = "distil"
MOST_STEPS = 8
#: A teacher of more steps takes so many here: what they cost is most of what a step costs.
TEACHER_STEPS = 8
LOOP = LoopConfig(600, 32, 3e-4, warmup=20, cooldown=300, ema=0.95, log_every=10, sample_every=100)
#: Layers that stay the teacher's: what a sentence says to which place is not what few steps change.
KEPT = ".attentions."


@dataclass(frozen=True)
class DistilConfig:
    """What the TOML file says, all of it optional: the student's name, its data, the loop."""

    name: str
    data: DataConfig
    loop: LoopConfig


def run(
    model: str | Path,
    data: Path,
    out: Path,
    config: Path | None = None,
    *,
    steps: int = 4,
    shared: bool = False,
    resume: bool = True,
) -> dict[str, Any]:
    """Distil `model` with the pictures and sentences of `data`; the student's card comes back.

    `shared`: write what differs from the teacher only; the teacher must then lie beside the
    student, or be embedded. Raises `InvalidRequestError`, `CheckpointError`, `OutputError`.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise InvalidRequestError("steps", f"{steps}; allowed: 1 to {MOST_STEPS}")
    check_replaceable(out.absolute(), INDEX)
    folder = find_model(model)
    if shared:
        _check_sharing(folder, out)
    distilling = Distilling(folder, out, read_distil_config(config, data), steps)
    return distilling.run(shared=shared, resume=resume)


def _check_sharing(teacher: Path, out: Path) -> None:
    """Asked before anything learns: will the student find its teacher?"""
    if components_of(teacher).base is not None:
        raise InvalidRequestError(
            "shared", f"true; {teacher} shares the parts of another itself, leave `--shared` out"
        )
    if not finds_base(out, teacher):
        raise InvalidRequestError(
            "shared",
            f"true; the teacher must lie beside the student: give --out {teacher.parent}/NAME",
        )


class Distilling:
    """A teacher, its student, and the data that the one teaches the other with."""

    def __init__(self, folder: Path, out: Path, config: DistilConfig, steps: int) -> None:
        self.folder, self.out, self.config = folder, out, config
        self.output = out.with_name(f"{out.name}-training")
        self.model = load_model(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.text_encoder.to(device).requires_grad_(False)
        self.model.denoiser.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.examples, _ = open_examples_of(config.data, self.model)
        card = self.model.card
        self.card = replace(
            card,
            name=config.name or f"{card.name}-{steps}",
            num_inference_steps=steps,
            guidance_scale=1.0,
            scheduler="flow_euler",
            teacher=f"{card.name} {folder_digest(folder)}",
        )

    def run(self, *, shared: bool, resume: bool) -> dict[str, Any]:
        """Learn, and write the folder."""
        page = ProgressPage(self.output, self.card.name, sample_captions(self.examples))
        teacher, student = self.teacher(), self.student()
        stage = self.stage(teacher, student)
        folder = stage_folder(self.output, NAME)
        weights = run_loop(stage, self.config.loop, folder, resume=resume, watch=page.update)
        page.write()
        load_strict(student, weights, folder)
        return self.write(student, shared=shared)

    def write(self, student: Denoiser, *, shared: bool) -> dict[str, Any]:
        """The student's folder, stored as the teacher is; its card comes back."""
        learned = replace(self.model, card=self.card, denoiser=student.cpu())
        storage = storage_of(components_of(self.folder)["unet"])
        if shared:
            save_shared(learned, self.folder, self.out, storage)
        else:
            save_model(learned, self.out, storage)
        return asdict(self.card)

    def teacher(self) -> Teacher:
        """The model, fixed, as it draws by its card."""
        encoder, card = self.model.text_encoder, self.model.card
        blank = self.examples.tokenizer([""], [[]], encoder.entity_dimension)
        return Teacher(
            self.model.denoiser.requires_grad_(False),
            card.guidance_scale,
            card.shift,
            encode_short(encoder, blank),
            min(TEACHER_STEPS, card.num_inference_steps),
        )

    def student(self) -> Denoiser:
        """A copy of the denoiser, of whose UNet all may learn but the layers `KEPT`."""
        student = copy.deepcopy(self.model.denoiser).requires_grad_(False)
        for name, weight in student.network.named_parameters():
            weight.requires_grad_(KEPT not in name)
        return student

    def stage(self, teacher: Teacher, student: Denoiser) -> Stage:
        """The stage that `student` learns in, with samples of it."""
        encoder, loop = self.model.text_encoder, self.config.loop
        steps = self.card.num_inference_steps
        autoencoder = self.model.autoencoder
        stage = distil_stage(student, teacher, encoder, autoencoder, self.examples, loop, steps)
        sampler = Sampler(student, encoder, autoencoder, self.examples, self.card)
        settings = {
            "teacher": self.card.teacher,
            "steps": steps,
            **{
                f"data.{key}": value
                for key, value in asdict(self.config.data).items()
                if not isinstance(value, str)  # folders may move
            },
        }
        return replace(stage, sheet=sampler, settings=settings)


def read_distil_config(path: Path | None, data: Path) -> DistilConfig:
    """The file's `name`, `[data]` (its folder is `data`) and `[loops.distil]`, or the defaults.

    Raises `InvalidRequestError` naming the key that is unknown or of the wrong type.
    """
    content = {} if path is None else read_toml(path, ("name", "data", "loops"))
    said = {"caption_dropout": 0.0, **content.get("data", {}), "folder": str(data)}
    loops = read_loops(content)
    if not isinstance(name := content.get("name", ""), str):
        raise InvalidRequestError("name", f"{name!r} in {path}; a name is wanted")
    return DistilConfig(name, read_section(DataConfig, "data", said), loops.get(NAME, LOOP))
