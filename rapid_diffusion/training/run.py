"""`rapid-diffusion train CONFIG`: the stages in order, then the model folder that they make."""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from knowledge.training import train_version
from knowledge.transe import TransEConfig
from rapid_diffusion.autoencoder import PatchAutoencoder
from rapid_diffusion.checkpoints.folder import load_strict
from rapid_diffusion.checkpoints.realesrgan import import_realesrgan
from rapid_diffusion.config import TextConfig
from rapid_diffusion.denoising.denoiser import Denoiser, build_denoiser
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.model_folder import Model, ModelCard, save_model
from rapid_diffusion.super_resolution.networks import build_network
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import build_text_encoder
from rapid_diffusion.training.config import LoopConfig, TrainingConfig, read_training_config
from rapid_diffusion.training.data import Examples, to_signed
from rapid_diffusion.training.loop import averaged_weights, run_loop, save_weights
from rapid_diffusion.training.stages import (
    Stage,
    diffusion_stage,
    draft_stage,
    stage_folder,
    super_resolution_stage,
    text_stage,
)

logger = logging.getLogger(__name__)
AnyModule = TypeVar("AnyModule", bound=nn.Module)

STAGES = ("knowledge", "text", "autoencoder", "draft", "diffusion", "super_resolution")


def run(config_path: Path, stage: str | None = None, *, resume: bool = True) -> None:
    """Train one stage, or all of them in order; then write the model folder `OUTPUT/model`.

    With `stage="model"` only the folder is written, from the checkpoints there are.
    """
    config = read_training_config(config_path)
    if stage is not None and stage not in (*STAGES, "model"):
        raise InvalidRequestError("stage", f"{stage!r} is none of {', '.join(STAGES)}, model")
    training = Training(config)
    for name in STAGES if stage is None else (stage,):
        if name != "model":
            logger.info("stage %s", name)
            training.train(name, resume=resume)
    if stage in (None, "model"):
        save_model(training.model(), training.output / "model", config.model.storage)


class Training:
    """The modules of one configuration, each with the weights of the stages already done."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.output = Path(config.output)
        self.examples = Examples(config.data, config.text.max_length)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

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
        elif name == "draft" and not self.config.denoiser.draft:
            logger.info("no draft is asked for (denoiser.draft = 0)")
        else:
            run_loop(
                self._stage(name), self.loop(name), stage_folder(self.output, name), resume=resume
            )

    def pair(self, *, trained: bool = True) -> ContrastivePair:
        """The contrastive pair; its text tower is the encoder of the model."""
        torch.manual_seed(self.loop("text").seed)
        pair = ContrastivePair(build_text_encoder(self.text_config), self.config.image_tower)
        return self._ready(pair, "text" if trained else None)

    def autoencoder(self) -> PatchAutoencoder:
        """The fitted autoencoder."""
        autoencoder = PatchAutoencoder(self.config.autoencoder)
        weights = averaged_weights(stage_folder(self.output, "autoencoder"))
        load_strict(autoencoder, weights, stage_folder(self.output, "autoencoder"))
        return autoencoder

    def denoiser(self, *, trained: bool = True) -> Denoiser:
        """The UNet."""
        torch.manual_seed(self.loop("diffusion").seed)
        denoiser = build_denoiser(self.config.denoiser)
        if denoiser.draft is not None and not trained:
            self._ready(denoiser.draft, "draft")
        self._ready(denoiser, "diffusion" if trained else None)
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return denoiser

    def upscaler_network(self, *, trained: bool = True) -> nn.Module:
        """The super-resolution network, fine-tuned from `upscaler_from` where that is given."""
        torch.manual_seed(self.loop("super_resolution").seed)
        network = build_network(self.config.upscaler)
        start = self.config.data.upscaler_from
        if start and not trained:
            load_strict(network, import_realesrgan(start).network.state_dict(), start)
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
            draft = build_denoiser(self.config.denoiser).draft
            assert draft is not None
            draft.to(self.device)
            return draft_stage(draft, self.pair().text, self.autoencoder(), self.examples, loop)
        if name == "diffusion":
            return diffusion_stage(
                self.denoiser(trained=False),
                self.pair().text,
                self.autoencoder(),
                self.examples,
                loop,
                self.config.model.shift,
            )
        network = self.upscaler_network(trained=False)
        return super_resolution_stage(network, self.autoencoder(), self.examples, loop)

    def _ready(self, module: AnyModule, trained_as: str | None) -> AnyModule:
        """On the device, with the averaged weights of a stage if one is named."""
        if trained_as is not None:
            folder = stage_folder(self.output, trained_as)
            load_strict(module, averaged_weights(folder), folder)
            module.eval()
        return module.to(self.device)

    def _train_knowledge(self) -> None:
        graph = self.examples.graph
        if graph.dimension == 0:
            path = Path(self.config.data.folder) / self.config.data.graph
            train_version(path, TransEConfig(dimension=self.config.text.entity_dimension))
            self.examples = Examples(self.config.data, self.config.text.max_length)

    def _fit_autoencoder(self) -> None:
        autoencoder = PatchAutoencoder(self.config.autoencoder)
        images: Tensor = to_signed(self.examples.pictures[self.examples.train])
        logger.info("round trip on training pictures: %.2f dB", autoencoder.fit(images))
        save_weights(stage_folder(self.output, "autoencoder"), autoencoder.state_dict())
