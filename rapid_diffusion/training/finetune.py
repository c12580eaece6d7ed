"""`rapid-diffusion finetune CONFIG`: a model goes on learning from new pictures.

Writes below `output`: `stages/` (checkpoints and logs of the one loop), `report.json`, and `model/`
(methods full and text) or `adapter/` (method lora).
"""

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rapid_diffusion.checkpoints.adapter import AdapterCard, Base, base_of
from rapid_diffusion.checkpoints.folder import read_json, write_json
from rapid_diffusion.components import find_model
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.model_folder import Model, load_model, save_model
from rapid_diffusion.training.finetune_config import FinetuneConfig, read_finetune_config
from rapid_diffusion.training.finetune_data import (
    Mixture,
    open_source,
    report_captions,
)
from rapid_diffusion.training.finetune_lora import Branches, add_branches
from rapid_diffusion.training.finetune_stages import (
    Learning,
    Lesson,
    Memory,
    diffusion_stage,
    draft_stage,
    measure_all,
)
from rapid_diffusion.training.loop import run_loop
from rapid_diffusion.training.stages import Stage, stage_folder

logger = logging.getLogger(__name__)

REPORT = "report.json"
START = "start.json"
NOT_MEASURED = "not measured: the configuration names no [old] data"


def run(config_path: Path, *, resume: bool = True) -> dict[str, Any]:
    """Fine-tune as the file says; killed at any moment, the same call goes on.

    Returns what `report.json` holds. Raises `InvalidRequestError` naming the key,
    `CheckpointError` naming the file, `OutputError`.
    """
    config = read_finetune_config(config_path)
    return Finetuning(config).run(resume=resume)


class Finetuning:
    """The model of one configuration, the data it learns from, and what of it learns."""

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self.output = Path(config.output)
        folder = find_model(config.start)
        self.model = load_model(folder)
        self.base = base_of(folder, self.model.card.name)
        self.mixture = Mixture(
            open_source(config.data, self.model),
            open_source(config.old, self.model) if config.old else None,
            config.old.share if config.old else 0.0,
        )
        self.captions = report_captions(self.mixture.new)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.text_encoder.to(device)
        self.model.denoiser.to(device)
        memory = Memory(self.model) if self.mixture.old else None  # before the branches are there
        self.lesson = Lesson(self.model, self.mixture, memory)
        self.branches = self._add_branches() if config.method == "lora" else None
        self.model.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def stages(self) -> list[str]:
        """What is done, in order. The draft comes first: the UNet learns from what it gives."""
        drafts = self.config.method != "text" and self.model.denoiser.draft is not None
        return ["draft", "diffusion"] if drafts else ["diffusion"]

    def run(self, *, resume: bool) -> dict[str, Any]:
        """Measure, learn, measure, write."""
        for name in self.stages:
            self.config.loop(name)
        if warning := self.captions.warning():
            logger.warning(warning)
        self._claim_output(resume=resume)
        before = measure_all(self.model, self.mixture)
        started = time.monotonic()
        for name in self.stages:
            self._learn(name, resume=resume)
        seconds = time.monotonic() - started
        after = measure_all(self.model, self.mixture)
        report = self._report(before, after, seconds)
        self._save(report)
        write_json(self.output / REPORT, report)
        return report

    def stage(self, name: str) -> tuple[Stage, Learning]:
        """A stage, and the parameters that learn in it."""
        loop, draft = self.config.loop(name), self.model.denoiser.draft
        if name == "draft":
            assert draft is not None
            learning = self._learning({"draft": draft}, text=True)
            return draft_stage(learning, self.lesson, loop), learning
        text = "draft" not in self.stages
        networks: dict[str, nn.Module] = (
            {} if self.config.method == "text" else {"unet": self.model.denoiser}
        )
        learning = self._learning(networks, text=text)
        return diffusion_stage(learning, self.lesson, loop, text=text), learning

    def _learn(self, name: str, *, resume: bool) -> None:
        logger.info("stage %s", name)
        stage, learning = self.stage(name)
        folder = stage_folder(self.output, name)
        learning.take(run_loop(stage, self.config.loop(name), folder, resume=resume), str(folder))

    def _learning(self, networks: dict[str, nn.Module], *, text: bool) -> Learning:
        """`networks` learn, and with `text` the text tower; with LoRA, their branches only."""
        if text:
            networks = networks | {"text_encoder": self.model.text_encoder}
        learns: list[nn.Parameter] = []
        for name, network in networks.items():
            if self.branches is not None:
                learns += self.branches.parameters(name)
            elif name == "unet":
                learns += self.model.denoiser.network.parameters()
            else:
                learns += network.parameters()
        return Learning(list(networks.values()), learns)

    def _add_branches(self) -> Branches:
        denoiser = self.model.denoiser
        drafts: dict[str, nn.Module] = {} if denoiser.draft is None else {"draft": denoiser.draft}
        networks = {"unet": denoiser.network, **drafts, "text_encoder": self.model.text_encoder}
        seed = self.config.loop("diffusion").seed
        return add_branches(networks, self.config.lora, seed)

    def _claim_output(self, *, resume: bool) -> None:
        """A checkpoint of another start would load without a word: its shapes are the same."""
        said = {
            "base": self.base.parts,
            "method": self.config.method,
            "lora": asdict(self.config.lora) if self.config.method == "lora" else None,
            "data": asdict(self.config.data),
            "old": asdict(self.config.old) if self.config.old else None,
        }
        said = _as_json(said)
        path = self.output / START
        if resume and path.is_file():
            earlier = read_json(path)
            differing = [key for key, value in said.items() if earlier.get(key) != value]
            if differing:
                raise InvalidRequestError(
                    differing[0],
                    f"{said[differing[0]]!r:.200}, but {self.output} was begun with "
                    f"{earlier.get(differing[0])!r:.200}; name another output, or use --fresh",
                )
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(path, said)

    def _report(
        self, before: dict[str, Any], after: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        return {
            "base": {"name": self.base.name, "digest": self.base.digest},
            "method": self.config.method,
            "captions": self.captions.as_dict(),
            "pictures": len(self.mixture.new.examples.train),
            "rehearsed_share": self.mixture.share,
            "loss": {key: {"before": before[key], "after": after[key]} for key in before},
            **({} if self.mixture.old else {"old_domain": NOT_MEASURED}),
            "seconds_of_this_run": round(seconds, 1),
        }

    def _save(self, report: dict[str, Any]) -> None:
        said = self.config.result
        if self.branches is not None:
            card = AdapterCard(said.name, self.base, said.license, said.attribution, report)
            self.branches.save(self.output / "adapter", card)
            return
        model = _renamed(self.model, self.config, self.base)
        save_model(model, self.output / "model", said.storage)


def _renamed(model: Model, config: FinetuneConfig, base: Base) -> Model:
    """The model on the CPU under its new name; what is said of licences is added to what was."""
    said = config.result
    card = replace(
        model.card,
        name=said.name,
        license=" + ".join(filter(None, [model.card.license, said.license])),
        attribution="; ".join(filter(None, [model.card.attribution, said.attribution])),
        styles=said.styles,
    )
    logger.info("%s comes of %s %s", card.name, base.name, base.digest)
    model.text_encoder.cpu()
    model.denoiser.cpu()
    return replace(model, card=card)


def _as_json(value: Any) -> Any:
    """As it comes back from a JSON file: tuples are lists there."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
