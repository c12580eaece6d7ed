"""What only a CUDA device can show: `pytest -m gpu`, the first thing that `make bench-gpu` does."""

import pytest
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.artifacts.building import Part, write_parts
from rapid_diffusion.artifacts.identity import made_for
from rapid_diffusion.attention import attention
from rapid_diffusion.denoising.engine import Engine, RowRequest, row_noise
from rapid_diffusion.denoising.samplers import SAMPLERS
from rapid_diffusion.text.encoder import TextStates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no CUDA device"),
]


def heads(requires_grad=False):
    generator = torch.Generator("cuda").manual_seed(0)
    return [
        torch.randn(2, 8, 256, 40, generator=generator, device="cuda")
        .bfloat16()
        .requires_grad_(requires_grad)
        for _ in range(3)
    ]


def test_flash_attention_agrees_with_the_plain_one_forwards_and_backwards():
    ours, plain = heads(True), heads(True)
    given = attention(*ours, backend="sdpa-flash")
    wanted = attention(*plain, backend="plain")
    torch.testing.assert_close(given, wanted, atol=2e-2, rtol=2e-2)
    given.float().square().sum().backward()
    wanted.float().square().sum().backward()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=6e-2, rtol=6e-2)


def test_the_profile_names_a_flash_kernel():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        attention(*heads(), backend="sdpa-flash")
        torch.cuda.synchronize()
    assert any("flash" in event.key for event in profile.key_averages())


def requests(pipe):
    states = pipe.encode_text(pipe.tokenize(["卡通猫"]))
    own = TextStates(states.hidden[0], states.mask[0])
    shape = (pipe.model.denoiser.channels, 4, 4)
    return [
        RowRequest(row_noise(n, shape).cuda(), own, SAMPLERS["dpmpp_2m"](1 + n, 1.0), None, n)
        for n in range(6)
    ]


def test_a_row_has_the_same_bits_in_any_company(micro_model_folder):
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder, device="cuda")
    together, alone = Engine(pipe.model.denoiser, 8), []
    tickets = [together.submit(one) for one in requests(pipe)]
    together.run()
    for one in requests(pipe):
        engine = Engine(pipe.model.denoiser, 8)
        alone.append(engine.submit(one))
        engine.run()
    pairs = zip(tickets, alone, strict=True)
    assert all(torch.equal(ticket.latents, other.latents) for ticket, other in pairs)


def test_a_captured_part_gives_what_the_network_gives_and_sees_its_weights_change(
    micro_model_folder, tmp_path
):
    eager = RapidDiffusionPipeline.from_pretrained(micro_model_folder, device="cuda")
    latents = torch.randn(1, eager.model.denoiser.channels, 4, 4, device="cuda")
    part = Part(eager.model.autoencoder, "decode", (latents,))
    dtype = next(eager.model.denoiser.parameters()).dtype
    made = made_for(micro_model_folder, eager.device, dtype)
    write_parts({"vae-1": part}, made, tmp_path / "compiled")
    pipe = RapidDiffusionPipeline.from_pretrained(
        micro_model_folder, device="cuda", artifacts=tmp_path / "compiled"
    )
    for factor in (1.0, 0.5):
        for model in (pipe.model, eager.model):
            model.autoencoder.basis.mul_(factor)
        for scale in (1.0, 2.0):
            wanted = eager.model.autoencoder.decode(scale * latents)
            given = pipe.model.autoencoder.decode(scale * latents)
            torch.testing.assert_close(given, wanted, atol=1e-2, rtol=1e-2)
