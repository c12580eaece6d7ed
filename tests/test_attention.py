"""One door to attention: every back end agrees with five plain lines, forwards and backwards."""

from importlib.util import find_spec

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rapid_diffusion.attention import (
    Case,
    DoorProcessor,
    attention,
    backends_here,
    obstacle,
    pick_backend,
    picks_here,
    plain_attention,
    route_through_door,
)
from rapid_diffusion.config import DenoiserConfig
from rapid_diffusion.denoising.denoiser import build_denoiser, load_denoiser
from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError

BACKENDS = ["auto", "sdpa-flash", "sdpa"]
WIDTHS = [4, 32, 40]
TINY = DenoiserConfig(4, 3, (8,), (True,), head_width=8, text_width=6, norm_groups=4)


def tensors(width=8, queries=5, keys=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, queries, width), (2, 3, keys, width), (2, 3, keys, width)]
    made = [torch.randn(s, generator=generator).to(dtype) for s in shapes]
    return [tensor.requires_grad_() for tensor in made]


def some_mask(keys=7):
    """The first sentence has 4 words, the second one."""
    return (torch.arange(keys) < torch.tensor([[4], [1]]))[:, None, None]


def output_and_gradients(backend, mask, **sizes):
    inputs = tensors(**sizes)
    function = plain_attention if backend is None else attention
    named = {} if backend is None else {"backend": backend}
    output = function(*inputs, mask, **named)
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
    (output * weights).sum().backward()
    return [output.detach(), *(tensor.grad for tensor in inputs)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_back_end_agrees_with_the_plain_one_forwards_and_backwards(backend, width, masked):
    mask = some_mask() if masked else None
    ours = output_and_gradients(backend, mask, width=width)
    reference = output_and_gradients(None, mask, width=width)
    for one, other in zip(ours, reference, strict=True):
        assert torch.allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("backend", [*BACKENDS, "plain"])
def test_bfloat16_agrees_to_its_precision(backend):
    half = attention(*tensors(dtype=torch.bfloat16), some_mask(), backend=backend)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), plain_attention(*tensors(), some_mask()), atol=0.03)


@pytest.mark.parametrize("backend", [*BACKENDS, "plain"])
def test_true_means_may_look_and_nowhere_to_look_gives_zeros(backend):
    query, key, value = (tensor.detach() for tensor in tensors())
    mask = torch.zeros(2, 1, 1, 7, dtype=torch.bool)
    mask[0, ..., 2] = True
    seen = attention(query, key, value, mask, backend=backend)
    assert torch.allclose(seen[0], value[0, :, 2:3].expand(-1, 5, -1))
    assert not seen[1].any()


def test_top_k_looks_at_the_k_best_keys_only():
    query, key, value = (tensor.detach() for tensor in tensors())
    best = (query @ key.transpose(-1, -2)).topk(2, -1).indices
    mask = torch.zeros(2, 3, 5, 7, dtype=torch.bool).scatter(-1, best, value=True)
    expected = plain_attention(query, key, value, mask)
    assert torch.allclose(attention(query, key, value, top_k=2), expected)
    allowed = some_mask()
    sparse = attention(query, key, value, allowed, top_k=1)
    assert torch.allclose(sparse[1], value[1, :, :1].expand(-1, 5, -1))


def test_top_k_of_all_keys_is_attention_and_its_gradient_reaches_the_kept():
    inputs = tensors()
    assert torch.equal(attention(*inputs, top_k=7), plain_attention(*inputs, None))
    attention(*inputs, top_k=1).sum().backward()
    assert inputs[2].grad.any()


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_a_missing_package_is_an_error_that_says_what_to_install():
    with pytest.raises(MissingDependencyError, match=r"pip install 'rapid-diffusion\[flash\]'"):
        attention(*tensors(), backend="flash-attn")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"backend": "magic"}, "sdpa-flash"),
        ({"top_k": 0}, "1 and more"),
        ({"top_k": 2, "backend": "sdpa"}, "plain"),
        ({"mask": torch.zeros(7)}, "bool"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(named, told):
    with pytest.raises(InvalidRequestError, match=told):
        attention(*tensors(), **named)


def test_flash_on_cuda_says_what_it_does_not_take():
    case = Case("cuda", torch.float32, 64, has_mask=False, needs_gradient=False)
    assert "float16" in obstacle("sdpa-flash", case)
    half = Case("cuda", torch.float16, 64, has_mask=True, needs_gradient=False)
    assert "mask" in obstacle("sdpa-flash", half)
    wide = Case("cuda", torch.float16, 512, has_mask=False, needs_gradient=False)
    assert "256" in obstacle("sdpa-flash", wide)
    assert pick_backend(half) == "sdpa"


class Kernels(TorchDispatchMode):
    """Writes down the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **kwargs or {})


def test_the_pinned_kernel_is_flash_by_its_name():
    query, key, value = (tensor.detach() for tensor in tensors())
    with Kernels() as kernels:
        attention(query, key, value, backend="sdpa-flash")
    assert any("flash_attention" in name for name in kernels.names)


def test_what_is_picked_here_is_here():
    here = backends_here()
    assert here["plain"]
    assert all(here[backend] for backend in picks_here().values())


def unet_call(denoiser):
    rows, times = torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4), torch.tensor([500.0, 20.0])
    hidden = torch.linspace(0, 1, 36).reshape(2, 3, 6)
    return denoiser(rows, times, hidden, torch.tensor([[True, True, False], [True] * 3]))


def test_the_unet_goes_through_the_door_and_gives_what_diffusers_gives(tmp_path, monkeypatch):
    from diffusers.models.attention_processor import AttnProcessor2_0

    torch.manual_seed(0)
    denoiser = build_denoiser(TINY).eval()
    torch.nn.init.normal_(denoiser.network.conv_out.weight)
    processors = denoiser.network.attn_processors.values()
    assert processors
    assert all(isinstance(p, DoorProcessor) for p in processors)
    with torch.no_grad():
        ours = unet_call(denoiser)
        denoiser.save(tmp_path)
        assert torch.equal(unet_call(load_denoiser(tmp_path).eval()), ours)
        route_through_door(denoiser.network, top_k=1)
        assert not torch.allclose(unet_call(denoiser), ours)
        denoiser.network.set_attn_processor(AttnProcessor2_0())
        assert torch.allclose(unet_call(denoiser), ours, atol=1e-5)
