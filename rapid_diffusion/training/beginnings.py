"""The weights that stages begin with, out of models that exist."""

from pathlib import Path

from torch import Tensor

from rapid_diffusion.autoencoder import Autoencoder, load_autoencoder
from rapid_diffusion.checkpoints.realesrgan import import_realesrgan
from rapid_diffusion.components import components_of, find_model
from rapid_diffusion.denoising.denoiser import Denoiser, load_denoiser
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.model_folder import load_model
from rapid_diffusion.super_resolution.networks import SRVGGNetCompact, less_enlarging
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.tokens import TextTokenizer


def known_pair(start: str, tokenizer: TextTokenizer) -> ContrastivePair:
    """The contrastive pair of a model whose pieces are those of `tokenizer`."""
    known = load_model(find_model(start), knowledge=False)
    if known.pair is None:
        raise InvalidRequestError("data.text_from", f"{start!r} has no image tower")
    if known.tokenizer.tokenizer.get_vocab() != tokenizer.tokenizer.get_vocab():
        raise InvalidRequestError(
            "data.text_from", f"{start!r} has another vocabulary than the data set"
        )
    return known.pair


def known_denoiser(start: str) -> Denoiser:
    """The UNet and the draft of a model."""
    parts = components_of(find_model(start))
    return load_denoiser(parts["unet"], below=parts.unet_below)


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
