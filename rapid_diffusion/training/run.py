"""`rapid-diffusion train CONFIG`: the stages in order, then the model folder that they make."""

import logging
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from knowledge.training import train_version
from knowledge.transe import TransEConfig
from rapid_diffusion.autoencoder import PatchAutoencoder
from rapid_diffusion.checkpoints.folder import load_strict
from rapid_diffusion.config import TextConfig
from rapid_diffusion.denoising.denoiser import Denoiser, build_denoiser
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.model_folder import Model, ModelCard, save_model
from rapid_diffusion.super_resolution.networks import build_network
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import build_text_encoder
from rapid_diffusion.training.beginnings import (
    begin_denoiser,
    begin_pair,
    known_autoencoder,
    known_decoder,
    known_upscaler,
)
from rapid_diffusion.training.closed_form import fit_wide_end, is_fitted_to
from rapid_diffusion.training.config import LoopConfig, TrainingConfig, read_training_config
from rapid_diffusion.training.data import Examples
from rapid_diffusion.training.enlarging import decoder_stage, super_resolution_stage
from rapid_diffusion.training.latents import AnyExamples, open_examples, open_latents
from rapid_diffusion.training.loop import averaged_weights, run_loop, save_weights
from rapid_diffusion.training.page import ProgressPage
from rapid_diffusion.training.processes import join_processes, leave_processes
from rapid_diffusion.training.samples import Sampler, sample_captions
from rapid_diffusion.training.settings import stage_settings
from rapid_diffusion.training.sizes import check_draft_folder, check_sizes
from rapid_diffusion.training.stages import (
    Stage,
    diffusion_stage,
    draft_stage,
    stage_folder,
    text_stage,
)
from rapid_diffusion.training.weighting import velocity_weights

logger = logging.getLogger(__name__)
AnyModule = TypeVar("AnyModule", bound=nn.Module)

#: As many pictures as the autoencoder is fitted to; more would not change it, but fill the memory.
AUTOENCODER_PICTURES = 4096
STAGES = (
    "knowledge", "text", "autoencoder", "decoder", "draft", "wide_draft", "diffusion",
    "super_resolution",
)  # fmt: skip


def run(config_path: Path, stage: str | None = None, *, resume: bool = True) -> None:
    """Train one stage, or all of them in order; then write the model folder `OUTPUT/model`.

    With `stage="model"` only the folder is written, from the checkpoints there are.
    """
    config = read_training_config(config_path)
    if stage is not None and stage not in (*STAGES, "model"):
        raise InvalidRequestError("stage", f"{stage!r} is none of {', '.join(STAGES)}, model")
    try:
        training = Training(config)
        for name in training.stages if stage is None else (stage,):
            if name != "model":
                logger.info("stage %s, process %d", name, training.processes.index)
                training.train(name, resume=resume)
        if stage in (None, "model") and training.processes.is_main:
            save_model(training.model(), training.output / "model", config.model.storage)
    finally:
        leave_processes()


class Training:
    """The modules of one configuration, each with the weights of the stages already done."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.output = Path(config.output)
        if config.data.draft_folder:
            check_draft_folder(config.data)
        self.examples = open_examples(config.data, config.text.max_length, self.output)
        check_sizes(config, self.examples)
        self.processes = join_processes()
        self.device = self.processes.device
        self.page = ProgressPage(self.output, config.model.name, sample_captions(self.examples))

    @property
    def stages(self) -> list[str]:
        """The names of those that have something to learn, in order."""
        config = self.config
        idle = {
            "decoder": config.autoencoder.shrink == 1,
            "draft": not config.denoiser.draft,
            "wide_draft": not config.denoiser.draft_cosines,
        }
        return [name for name in STAGES if not idle.get(name)]

    @property
    def text_config(self) -> TextConfig:
        """The text tower's sizes, those that follow from the data set filled in."""
        return replace(
            self.config.text,
            vocabulary=len(self.examples.tokenizer),
            entity_dimension=self.examples.graph.dimension,
        )

    def loop(self, name: str) -> LoopConfig:
        """The `[loops.NAME]` table of the configuration."""
        if name not in self.config.loops:
            raise InvalidRequestError(f"loops.{name}", "missing in the configuration")
        return self.config.loops[name]

    def train(self, name: str, *, resume: bool) -> None:
        """Run one stage to its end, or go on with it."""
        if name == "knowledge":
            self._train_knowledge()
        elif name == "autoencoder":
            self._fit_autoencoder()
        elif name not in self.stages:
            logger.info("stage %s has nothing to learn in this configuration", name)
        elif name == "wide_draft":
            self._fit_wide_draft(resume=resume)
        else:
            self._learn(name, resume=resume)

    def _learn(self, name: str, *, resume: bool) -> None:
        stage = replace(
            self._stage(name), settings=stage_settings(self.config, self.text_config, name)
        )
        folder = stage_folder(self.output, name)
        run_loop(stage, self.loop(name), folder, resume=resume, watch=self.page.update)
        if self.processes.is_main:
            self.page.write()

    def pair(self, *, trained: bool = True) -> ContrastivePair:
        """The contrastive pair; its text tower is the encoder of the model."""
        torch.manual_seed(self.loop("text").seed)
        pair = ContrastivePair(build_text_encoder(self.text_config), self.config.image_tower)
        start = self.config.data.text_from
        if start and not trained:
            begin_pair(pair, self.examples.tokenizer, start)
        pair.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._ready(pair, "text" if trained else None)

    def autoencoder(self, *, trained: bool = True) -> PatchAutoencoder:
        """The fitted autoencoder; its decoder's network is the one that was trained after."""
        autoencoder = PatchAutoencoder(self.config.autoencoder)
        weights = averaged_weights(stage_folder(self.output, "autoencoder"))
        load_strict(autoencoder, weights, stage_folder(self.output, "autoencoder"))
        if autoencoder.network is not None and trained:
            folder = stage_folder(self.output, "decoder")
            load_strict(autoencoder.network, averaged_weights(folder), folder)
        return autoencoder.eval()

    def denoiser(self, *, trained: bool = True) -> Denoiser:
        """The UNet; its draft is the one of its own stage, which may have learned on since."""
        denoiser = build_denoiser(self.config.denoiser) if trained else self._begun_denoiser()
        self._ready(denoiser, "diffusion" if trained else None)
        if denoiser.draft is not None:
            self._ready(denoiser.draft, "wide_draft" if denoiser.draft.config.cosines else "draft")
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return denoiser

    def _begun_denoiser(self) -> Denoiser:
        """UNet and draft, with the weights of `denoiser_from` where that is given."""
        torch.manual_seed(self.loop("diffusion").seed)
        denoiser = build_denoiser(self.config.denoiser)
        start = self.config.data.denoiser_from
        if start:
            begin_denoiser(denoiser, start)
        return denoiser

    def upscaler_network(self, *, trained: bool = True) -> nn.Module:
        """The super-resolution network, fine-tuned from `upscaler_from` where that is given."""
        torch.manual_seed(self.loop("super_resolution").seed)
        network = build_network(self.config.upscaler)
        start = self.config.data.upscaler_from
        if start and not trained:
            load_strict(network, known_upscaler(start).network.state_dict(), start)
        return self._ready(network, "super_resolution" if trained else None)

    def model(self) -> Model:
        """Every trained component, on the CPU."""
        said = self.config.model
        pair = self.pair().cpu()
        card = ModelCard(**{item.name: getattr(said, item.name) for item in fields(ModelCard)})
        return Model(
            card=card,
            tokenizer=self.examples.tokenizer,
            text_config=self.text_config,
            text_encoder=pair.text,
            denoiser=self.denoiser().cpu(),
            autoencoder=self.autoencoder(),
            upscaler=Upscaler(self.upscaler_network().cpu(), self.config.upscaler),
            graph=self.examples.graph,
            pair=pair,
        )

    def _stage(self, name: str) -> Stage:
        loop = self.loop(name)
        if name == "text":
            return text_stage(self.pair(trained=False), self.examples, loop)
        if name == "draft":
            draft = self._begun_denoiser().draft
            assert draft is not None
            draft, examples = draft.without_wide_end().to(self.device), self._draft_examples()
            return draft_stage(draft, self.pair().text, self.autoencoder(), examples, loop)
        if name == "decoder":
            autoencoder = self.autoencoder(trained=False).to(self.device)
            return decoder_stage(autoencoder, self.examples, loop)
        if name == "diffusion":
            return self._diffusion_stage(loop)
        network = self.upscaler_network(trained=False)
        return super_resolution_stage(network, self.autoencoder(), self.examples, loop)

    def _draft_examples(self) -> AnyExamples:
        """Those of all stages, and beside them the pictures of `draft_folder` if one is named."""
        said, known = self.config.data, self.examples
        if not said.draft_folder:
            return known
        return Examples(
            said,
            self.config.text.max_length,
            self.output,
            tokenizer=known.tokenizer,
            graph=known.graph,
            beside=Path(said.draft_folder),
        )

    def _diffusion_stage(self, loop: LoopConfig) -> Stage:
        said = self.config.diffusion
        denoiser, encoder = self.denoiser(trained=False), self.pair().text
        autoencoder, shift = self.autoencoder(), self.config.model.shift
        weigh = partial(velocity_weights, weighting=said.weighting, gamma=said.gamma)
        stage = diffusion_stage(
            denoiser, encoder, autoencoder, self.examples, loop, shift, weigh=weigh
        )
        sampler = Sampler(denoiser, encoder, autoencoder, self.examples, self.config.model)
        return replace(stage, sheet=sampler)

    def _ready(self, module: AnyModule, trained_as: str | None) -> AnyModule:
        """On the device, with the averaged weights of a stage if one is named."""
        if trained_as is not None:
            folder = stage_folder(self.output, trained_as)
            load_strict(module, averaged_weights(folder), folder)
            module.eval()
        return module.to(self.device)

    def _train_knowledge(self) -> None:
        if self.examples.graph.dimension == 0:
            if self.processes.is_main:
                path = Path(self.config.data.folder) / self.config.data.graph
                train_version(path, TransEConfig(dimension=self.config.text.entity_dimension))
            self.processes.wait()
            self.examples = open_examples(
                self.config.data, self.config.text.max_length, self.output
            )

    def _fit_wide_draft(self, *, resume: bool) -> None:
        begun, folder = (stage_folder(self.output, name) for name in ("draft", "wide_draft"))
        narrow, loop = averaged_weights(begun), self.loop("draft")
        if self.processes.is_main and not (resume and is_fitted_to(narrow, folder)):
            draft = self._begun_denoiser().draft
            assert draft is not None
            load_strict(draft, draft.state_dict() | narrow, begun)
            if loop.steps:  # else the draft stays what it is
                encoder, examples = self.pair().text, self._draft_examples()
                latents = open_latents(self.autoencoder(), examples)
                fit_wide_end(draft.to(self.device), encoder, latents, examples, loop)
            save_weights(folder, draft.state_dict())
        self.processes.wait()

    def _fit_autoencoder(self) -> None:
        if self.processes.is_main:
            self._fit_and_save_autoencoder()
        self.processes.wait()

    def _fit_and_save_autoencoder(self) -> None:
        torch.manual_seed(0)
        autoencoder = PatchAutoencoder(self.config.autoencoder)
        start = self.config.data.denoiser_from
        if start:
            load_strict(autoencoder, known_autoencoder(start).state_dict(), start)
        else:
            images = self.examples.some_pictures(AUTOENCODER_PICTURES)
            logger.info("round trip on training pictures: %.2f dB", autoencoder.fit(images))
        if autoencoder.network is not None and (start := self.config.data.decoder_from):
            weights = known_decoder(start, autoencoder.config.shrink)
            load_strict(autoencoder.network, weights, start)
        save_weights(stage_folder(self.output, "autoencoder"), autoencoder.state_dict())
