"""`rapid-diffusion train CONFIG`: the stages in order, then the model folder that they make."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from rapid_diffusion.autoencoder import PatchAutoencoder
from rapid_diffusion.denoising.denoiser import build_denoiser
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.super_resolution.networks import build_network
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import build_text_encoder
from rapid_diffusion.training.config import LoopConfig, TrainingConfig, read_training_config
from rapid_diffusion.training.data import Examples, to_signed
from rapid_diffusion.training.loop import averaged_weights, run_loop
from rapid_diffusion.training.stages import (
    Stage,
    diffusion_stage,
    stage_folder,
    super_resolution_stage,
    text_stage,
)

logger = logging.getLogger(__name__)

STAGES = ("knowledge", "text", "autoencoder", "diffusion", "super_resolution")


def run(config_path: Path, stage: str | None = None, *, resume: bool = True) -> None:
    """Train one stage, or all of them in order and then write the model folder."""
    config = read_training_config(config_path)
    if stage is not None and stage not in STAGES:
        raise InvalidRequestError("stage", f"{stage!r} is none of {', '.join(STAGES)}")
    training = Training(config)
    for name in STAGES if stage is None else (stage,):
        logger.info("stage %s", name)
        training.train(name, resume=resume)
    if stage is None:
        from rapid_diffusion.training.assemble import assemble

        assemble(training)


class Training:
    """The modules of one configuration, each with the weights of the stages already done."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.output = Path(config.output)
        self.examples = Examples(config.data, config.text.max_length)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

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
        else:
            stage = self._stage(name)
            run_loop(stage, self.loop(name), stage_folder(self.output, name), resume=resume)

    def pair(self, *, trained: bool = True) -> ContrastivePair:
        """The contrastive pair; its text tower is the encoder of the model."""
        torch.manual_seed(self.loop("text").seed)
        text = build_text_encoder(self.text_config())
        pair = ContrastivePair(text, self.config.image_tower)
        if trained:
            self._load(pair, "text")
        return pair

    def text_config(self):  # type: ignore[no-untyped-def]
        """The text tower's sizes, with the vocabulary and the vectors that the data have."""
        from dataclasses import replace

        return replace(
            self.config.text,
            vocabulary=len(self.examples.tokenizer),
            entity_dimension=self.examples.graph.dimension,
        )

    def autoencoder(self) -> PatchAutoencoder:
        """The fitted autoencoder."""
        autoencoder = PatchAutoencoder(self.config.autoencoder)
        weights = torch.load(self._autoencoder_file(), weights_only=True)
        autoencoder.load_state_dict(weights)
        return autoencoder

    def denoiser(self, *, trained: bool = True) -> nn.Module:
        """The UNet."""
        torch.manual_seed(self.loop("diffusion").seed)
        denoiser = build_denoiser(self.config.denoiser)
        if trained:
            self._load(denoiser, "diffusion")
        return denoiser.to(memory_format=torch.channels_last)

    def upscaler_network(self, *, trained: bool = True) -> nn.Module:
        """The super-resolution network."""
        torch.manual_seed(self.loop("super_resolution").seed)
        network = build_network(self.config.upscaler)
        if trained:
            self._load(network, "super_resolution")
        return network

    def _stage(self, name: str) -> Stage:
        loop = self.loop(name)
        if name == "text":
            return text_stage(self.pair(trained=False), self.examples, loop)
        if name == "diffusion":
            denoiser = self.denoiser(trained=False)
            encoder = self.pair().text
            return diffusion_stage(denoiser, encoder, self.autoencoder(), self.examples, loop)
        network = self.upscaler_network(trained=False)
        return super_resolution_stage(network, self.autoencoder(), self.examples, loop)

    def _load(self, module: nn.Module, name: str) -> None:
        module.load_state_dict(averaged_weights(stage_folder(self.output, name)))
        module.eval()

    def _train_knowledge(self) -> None:
        if self.examples.graph.dimension == 0:
            raise InvalidRequestError(
                "data.graph", "has no entity vectors; run `python -m knowledge train` on it"
            )

    def _autoencoder_file(self) -> Path:
        return stage_folder(self.output, "autoencoder") / "weights.pt"

    def _fit_autoencoder(self) -> None:
        autoencoder = PatchAutoencoder(self.config.autoencoder)
        images: Tensor = to_signed(self.examples.pictures[self.examples.train])
        logger.info("round trip %.2f dB on training pictures", autoencoder.fit(images))
        path = self._autoencoder_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(autoencoder.state_dict(), path)
