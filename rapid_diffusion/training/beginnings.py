"""The weights that stages begin with, out of models that exist."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from rapid_diffusion.autoencoder import Autoencoder, load_autoencoder
from rapid_diffusion.checkpoints.folder import load_strict
from rapid_diffusion.checkpoints.realesrgan import import_realesrgan
from rapid_diffusion.components import components_of, find_model
from rapid_diffusion.denoising.denoiser import Denoiser, load_denoiser
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.model_folder import load_model
from rapid_diffusion.super_resolution.networks import SRVGGNetCompact, less_enlarging
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.tokens import TextTokenizer

logger = logging.getLogger(__name__)


def begin_pair(pair: ContrastivePair, tokenizer: TextTokenizer, start: str) -> None:
    """Give it both towers of a model; word pieces that the model does not know begin anew."""
    known = load_model(find_model(start), knowledge=False)
    if known.pair is None:
        raise InvalidRequestError("data.text_from", f"{start!r} has no image tower")
    weights, name = known.pair.state_dict(), _embeddings_of(pair)
    fresh = pair.state_dict()[name].clone()
    if fresh.shape[1] == weights[name].shape[1]:
        before, now = known.tokenizer.tokenizer.get_vocab(), tokenizer.tokenizer.get_vocab()
        shared = sorted(before.keys() & now.keys())
        fresh[[now[piece] for piece in shared]] = weights[name][[before[p] for p in shared]]
        weights[name] = fresh
        logger.info("%s knows %d of %d word pieces", start, len(shared), len(now))
    load_strict(pair, weights, start)


def _embeddings_of(pair: ContrastivePair) -> str:
    """The name of the weights of word pieces."""
    tower: Any = pair.text.tower
    sought = tower.get_input_embeddings().weight
    return next(name for name, weight in pair.named_parameters() if weight is sought)


def begin_denoiser(denoiser: Denoiser, start: str) -> None:
    """Give it the UNet of a model, and its draft too, unless that is one of other sizes."""
    parts = components_of(find_model(start))
    known = load_denoiser(parts["unet"], below=parts.unet_below)
    load_strict(denoiser.network, known.network.state_dict(), start)
    if denoiser.draft is None or known.draft is None:
        return
    if denoiser.draft.config == known.draft.config:
        load_strict(denoiser.draft, known.draft.state_dict(), start)
    else:
        logger.warning(
            "%s has a draft of other sizes, %s; a new one begins", start, known.draft.config
        )


def known_autoencoder(start: str) -> Autoencoder:
    """The autoencoder whose latents the UNet and the draft of a model know."""
    return load_autoencoder(components_of(find_model(start))["vae"])


def known_decoder(start: str, scale: int) -> dict[str, Tensor]:
    """The weights of an upscaler for a decoder's network, which enlarges `scale` times.

    That they fit, `check_sizes` has seen.
    """
    network = known_upscaler(start).network
    assert isinstance(network, SRVGGNetCompact)
    return less_enlarging(network, scale)


def known_upscaler(start: str) -> Upscaler:
    """The upscaler of a Real-ESRGAN file (`.pth`, or `.param` beside `.bin`) or of a model."""
    path = Path(start)
    if path.is_file() or (path.suffix and not path.is_dir()):
        return import_realesrgan(start)
    folder = components_of(find_model(start))["super_resolution"]
    if not folder.is_dir():
        raise CheckpointError(start, "has no upscaler")
    return Upscaler.from_folder(folder)
