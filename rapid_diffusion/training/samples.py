"""A sheet of pictures from a model that still learns: same sentences, same noise, each time."""

import copy

import numpy as np
import torch
from torch import Tensor

from rapid_diffusion.autoencoder import Autoencoder
from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.engine import Guidance, denoise, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.images.convert import Pixels, model_to_unit, unit_to_pixels
from rapid_diffusion.images.png import encode_png
from rapid_diffusion.model_folder import ModelCard
from rapid_diffusion.text.encoder import KnowledgeTextEncoder, TextStates
from rapid_diffusion.text.tokens import Tokens
from rapid_diffusion.training.latents import AnyExamples

PICTURES = 8
COLUMNS = 4
MARGIN = 4


def sample_rows(examples: AnyExamples) -> list[int]:
    """The rows whose first captions are drawn: spread over the held-out ones, or the others."""
    return examples.fixed_rows(PICTURES)


def sample_captions(examples: AnyExamples) -> list[str]:
    """What the pictures of a sheet should show, in their order."""
    return examples.first_texts(sample_rows(examples))


class Sampler:
    """Draws with the engine and the parameters that a call of the finished model would use.

    It works on a copy of the denoiser, and its noise has generators of its own: the training
    goes on as if nothing had been drawn.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: KnowledgeTextEncoder,
        autoencoder: Autoencoder,
        examples: AnyExamples,
        card: ModelCard,
    ) -> None:
        self.denoiser, self.encoder, self.autoencoder = denoiser, encoder, autoencoder
        self.card = card
        self.tokens = examples.first_captions(sample_rows(examples))
        self.blank = examples.tokenizer([""], [[]], encoder.entity_dimension)

    @torch.no_grad()
    def __call__(self, weights: dict[str, Tensor]) -> bytes:
        """The sheet that a denoiser with these weights draws, as PNG."""
        denoiser = copy.deepcopy(self.denoiser).eval()
        denoiser.load_state_dict(weights)
        states, empty = self._states(self.tokens), self._states(self.blank)
        rows, card = len(states.hidden), self.card
        negative = TextStates(empty.hidden.expand(rows, -1, -1), empty.mask.expand(rows, -1))
        scale = card.guidance_scale
        guidance = None if scale == 1.0 else Guidance(scale, negative)
        shape = (denoiser.channels, denoiser.sample_size, denoiser.sample_size)
        noise = torch.stack([row_noise(seed, shape) for seed in range(rows)])
        table = SAMPLERS[card.scheduler](card.num_inference_steps, card.shift)
        latents = denoise(denoiser, noise.to(states.hidden.device), states, table, guidance)
        images = model_to_unit(self.autoencoder.decode(latents.cpu()))
        return encode_png(sheet(unit_to_pixels(images)))

    def _states(self, tokens: Tokens) -> TextStates:
        training = self.encoder.training
        states = self.encoder.eval().encode(tokens)
        self.encoder.train(training)
        return states


def sheet(pictures: Pixels) -> Pixels:
    """uint8 (N, H, W, 3) -> one picture (H', W', 3), `COLUMNS` side by side on white."""
    height, width = pictures.shape[1] + MARGIN, pictures.shape[2] + MARGIN
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    page = np.full((rows * height - MARGIN, columns * width - MARGIN, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height, number % columns * width
        page[top : top + len(picture), left : left + picture.shape[1]] = picture
    return page
