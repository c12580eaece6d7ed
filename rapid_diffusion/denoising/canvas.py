"""A small network paints the sentence's rough layout beside the noise, for the UNet to see.

Convolutions know no place but the borders, and in pure noise there is nothing to hold on to: what
the whole sentence says can only scale channels up and down, the same everywhere. The canvas says
*where*: its channels join the noisy latents at the UNet's input.
"""

from torch import Tensor, nn

from rapid_diffusion.config import CanvasConfig


class SentenceCanvas(nn.Module):
    """The CLS state (B, D) -> a canvas (B, channels, size, size)."""

    def __init__(self, config: CanvasConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Linear(config.text_width, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.channels * config.size**2),
        )

    def forward(self, sentence: Tensor) -> Tensor:
        """The canvas of each sentence."""
        size = self.config.size
        painted: Tensor = self.layers(sentence)
        return painted.reshape(-1, self.config.channels, size, size)
