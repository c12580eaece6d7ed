"""Winograd's way of a 3x3 convolution: the same results, and only where it pays."""

import pytest
import torch
from torch import nn

from rapid_diffusion.denoising.compiled import compile_network
from rapid_diffusion.denoising.winograd import (
    LEAST_CHANNELS,
    WinogradConv2d,
    with_fewer_products,
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (8, 10), (16, 16), (16, 24), (9, 12), (4, 4)])
def test_it_gives_what_the_convolution_gives(size, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 3, padding=1, bias=bias)
    images = torch.randn(2, 5, *size)
    wanted = convolution(images)
    error = (WinogradConv2d(convolution)(images) - wanted).norm() / wanted.norm()
    assert error < 1e-5


def test_another_size_than_the_first_goes_the_direct_way():
    convolution = nn.Conv2d(5, 7, 3, padding=1)
    fast, large, small = (
        WinogradConv2d(convolution),
        torch.ones(1, 5, 16, 16),
        torch.ones(1, 5, 8, 8),
    )
    fast(large)
    assert fast.side == 4
    assert torch.equal(fast(small), convolution(small))


def network():
    wide = LEAST_CHANNELS
    return nn.Sequential(
        nn.Conv2d(8, wide, 3, padding=1),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.Conv2d(wide, wide, 3, padding=1, stride=2),
        nn.Conv2d(wide, wide, 1),
    )


def test_large_convolutions_are_replaced_in_a_copy_that_has_the_same_weights():
    torch.manual_seed(0)
    plain = network().eval()
    fast = with_fewer_products(plain)
    kinds = [type(module) for module in fast]
    assert kinds == [nn.Conv2d, WinogradConv2d, nn.Conv2d, nn.Conv2d]
    assert [type(module) for module in plain] == [nn.Conv2d] * 4
    weights = zip(fast.parameters(), plain.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in weights)
    assert list(fast.state_dict()) == list(plain.state_dict())
    images = torch.randn(1, 8, 16, 16)
    assert torch.allclose(fast(images), plain(images), atol=1e-5)


def test_what_would_not_gain_stays_itself():
    small, half = nn.Conv2d(64, 64, 3, padding=1), network().bfloat16()
    assert with_fewer_products(small) is small
    assert with_fewer_products(half) is half


def test_rows_have_the_same_bits_in_every_place():
    torch.manual_seed(0)
    convolution = WinogradConv2d(nn.Conv2d(32, 48, 3, padding=1))
    images = torch.randn(4, 32, 16, 16)
    with torch.inference_mode():
        assert torch.equal(convolution(images.flip(0)).flip(0), convolution(images))


def test_a_network_with_folded_weights_goes_that_way_and_keeps_its_names(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    calls = []
    forward = WinogradConv2d.forward
    monkeypatch.setattr(WinogradConv2d, "forward", lambda *i: calls.append(1) or forward(*i))
    compiled, images = network()[:2].eval(), torch.ones(1, 8, 8, 8)
    names, wanted = list(compiled.state_dict()), compiled(images)
    compile_network(compiled)
    assert torch.allclose(compiled(images), wanted, atol=1e-5)
    assert (list(compiled.state_dict()), calls) == (names, [1, 1])  # once to prepare
