"""A text tower with entity vectors at its input, so that every layer sees what is named.

Rapid Diffusion (ACL 2023), section 3.1: the representation of an entity's tokens is enriched with
the entity's TransE vector. Here: x = token + position + g · W · RMSNorm(v), weighted by the link.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rapid_diffusion.config import TextConfig
from rapid_diffusion.text.tokens import Tokens


@dataclass(frozen=True)
class TextStates:
    """What the denoiser looks at: hidden (B, L, D) and mask (B, L), True = may look."""

    hidden: Tensor
    mask: Tensor


class EntityInjection(nn.Module):
    """g · weight · W · RMSNorm(v): exactly nothing for a zero vector, weight or gate.

    Vectors arrive as weight · v with v of unit length. Of such a v, RMSNorm is v · sqrt(E); a norm
    taken here instead would swallow the weight.
    """

    def __init__(self, entity_dimension: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(entity_dimension, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, entity_vectors: Tensor) -> Tensor:
        """(B, L, E), each row weight times a unit vector or zero -> (B, L, D)."""
        rms_of_unit = entity_vectors.shape[-1] ** -0.5
        added: Tensor = self.gate * self.projection(entity_vectors / rms_of_unit)
        return added


class KnowledgeTextEncoder(nn.Module):
    """Any transformers text tower that takes `inputs_embeds`, plus the injection."""

    def __init__(self, tower: nn.Module, entity_dimension: int) -> None:
        super().__init__()
        self.tower = tower
        self.entity_dimension = entity_dimension
        config: Any = tower.config
        self.width: int = config.hidden_size
        self.injection = EntityInjection(entity_dimension, self.width)

    def forward(self, ids: Tensor, mask: Tensor, entity_vectors: Tensor) -> Tensor:
        """ids, mask (B, L) and entity_vectors (B, L, E) -> hidden states (B, L, D)."""
        embeddings: Any = self.tower.get_input_embeddings()  # type: ignore[operator]
        added = self.injection(entity_vectors)
        output = self.tower(inputs_embeds=embeddings(ids) + added, attention_mask=mask)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def encode(self, tokens: Tokens) -> TextStates:
        """The states of a batch of sentences, on the encoder's device."""
        device = self.injection.gate.device
        ids, mask = tokens.ids.to(device), tokens.mask.to(device)
        hidden = self(ids, mask, tokens.entity_vectors.to(device, self.injection.gate.dtype))
        return TextStates(hidden, mask)


def build_text_encoder(config: TextConfig) -> KnowledgeTextEncoder:
    """A BERT tower with random weights, of the sizes given."""
    from transformers import BertConfig, BertModel

    tower = BertModel(
        BertConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.width,
            max_position_embeddings=config.max_length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            type_vocab_size=1,
            pad_token_id=config.padding_id,
        ),
        add_pooling_layer=False,
    )
    return KnowledgeTextEncoder(tower, config.entity_dimension)
