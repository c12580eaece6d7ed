"""How much each moment of the flow counts in the loss."""

from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["none", "min_snr"]


def velocity_weights(times: Tensor, weighting: Weighting, gamma: float) -> Tensor:
    """times (B,) in [0, 1], 1 = noise -> the weight (B,) of each row's squared velocity error.

    "none" is flow matching as it stands: 1 everywhere.

    "min_snr" is Min-SNR-gamma (Hang et al., 2023, arXiv 2303.09556, equation 8), which weights
    the squared error of the clean estimate by min(SNR, gamma), for the flow's velocity. With

        x_t = (1 - t) x_0 + t noise,    SNR(t) = ((1 - t) / t)²,

    a network that gives the velocity u (in truth v = noise - x_0) estimates the clean latents as
    D = x_t - t u. Since x_t - t v = x_0, the error of the estimate is

        D - x_0 = (x_t - t u) - (x_t - t v) = t (v - u),

    so |D - x_0|² = t² |v - u|², and the weight of the velocity's squared error is

        min(SNR, gamma) t² = min((1 - t)², gamma t²).

    It rises with gamma t² up to t = 1 / (1 + sqrt(gamma)), where SNR = gamma, and falls to 0 at
    pure noise. ("none" weights the clean estimate by 1 / t² instead, without bound.) As in the
    paper the weights are not scaled to a mean of 1.
    """
    if weighting == "none":
        return torch.ones_like(times)
    return torch.minimum((1 - times).square(), gamma * times.square())
