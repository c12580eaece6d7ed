"""Entity vectors at the input of a text tower: what they change, and when they change nothing."""

import pytest
import torch

from rapid_diffusion.config import TextConfig
from rapid_diffusion.text.encoder import build_text_encoder
from rapid_diffusion.text.tokens import Tokens

CONFIG = TextConfig(vocabulary=20, width=16, layers=2, heads=2, max_length=6, entity_dimension=4)
IDS = torch.tensor([[2, 7, 8, 9, 3, 0], [2, 7, 3, 0, 0, 0]])


@pytest.fixture
def encoder():
    torch.manual_seed(1)
    return build_text_encoder(CONFIG).eval()


def encode(encoder, vectors):
    with torch.no_grad():
        return encoder.encode(Tokens(IDS, IDS > 0, vectors, [None, None])).hidden


def one_entity():
    vectors = torch.zeros(2, 6, 4)
    vectors[0, 2] = torch.tensor([0.5, -0.5, 0.5, 0.5])
    return vectors


def test_a_pretrained_tower_is_unchanged_while_the_gate_is_zero(encoder):
    with torch.no_grad():
        plain = encoder.tower(input_ids=IDS, attention_mask=IDS > 0).last_hidden_state
    assert torch.equal(encode(encoder, one_entity()), plain)


def test_zero_vectors_change_nothing_to_the_bit(encoder):
    closed = encode(encoder, torch.zeros(2, 6, 4))
    encoder.injection.gate.data.fill_(1.0)
    assert torch.equal(encode(encoder, torch.zeros(2, 6, 4)), closed)
    assert torch.equal(encode(encoder, 0.0 * one_entity()), closed)


def test_a_vector_changes_its_own_sentence_at_every_word_and_no_other(encoder):
    encoder.injection.gate.data.fill_(1.0)
    plain, enriched = encode(encoder, torch.zeros(2, 6, 4)), encode(encoder, one_entity())
    assert (plain[0] != enriched[0]).any(1).all()
    assert torch.equal(plain[1], enriched[1])


def test_the_injection_is_gate_times_weight_times_the_projected_rms_norm(encoder):
    encoder.injection.gate.data.fill_(0.3)
    vector = one_entity()[0, 2]
    normed = torch.nn.functional.rms_norm(vector, (4,), eps=0.0)
    wanted = 0.3 * 2.0 * (encoder.injection.projection.weight @ normed)
    assert torch.allclose(encoder.injection(2.0 * vector), wanted)


def test_the_gate_learns_from_its_first_step(encoder):
    encoder(IDS, IDS > 0, one_entity()).square().sum().backward()
    assert encoder.injection.gate.grad.abs() > 0


def test_padding_does_not_change_a_sentence(encoder):
    short = Tokens(IDS[1:, :3], IDS[1:, :3] > 0, torch.zeros(1, 3, 4), [None])
    with torch.no_grad():
        alone = encoder.encode(short).hidden
    assert torch.allclose(alone, encode(encoder, torch.zeros(2, 6, 4))[1:, :3], atol=1e-6)
