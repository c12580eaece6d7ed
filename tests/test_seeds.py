"""Every seed that may be asked for has noise of its own."""

import pytest
import torch

from rapid_diffusion.denoising.engine import row_noise
from rapid_diffusion.seeds import mixed_seed


@pytest.mark.parametrize("seed", [0, 7])
def test_seeds_that_agree_in_32_bits_differ_in_their_noise(seed: int) -> None:
    noises = [row_noise(seed + high * 2**32, (2, 3)) for high in (0, 1, 2**20)]
    assert not torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[1], noises[2])


def test_small_seeds_give_the_noise_that_torch_gives() -> None:
    wanted = torch.randn((2, 3), generator=torch.Generator().manual_seed(42))
    assert torch.equal(row_noise(42, (2, 3)), wanted)


def test_mixing_looks_at_every_part_and_at_their_order() -> None:
    assert len({mixed_seed(1, 2), mixed_seed(2, 1), mixed_seed(12), mixed_seed(1, "2", 0)}) == 4
