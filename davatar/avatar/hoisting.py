"""What a sampling run of the published avatar computes once instead of in every step.

* the condition encoder's output: it depends on the frame, not on the noise (spec diffusion-avatars 12);
* keys and values that attentions read from constant contexts: the empty prompt and the expression tokens.

The same operations in another place of the program: the numbers do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn


@dataclass(frozen=True)
class Embedded:
    """The condition encoder's output; travels through diffusers in place of the condition."""

    maps: torch.Tensor  # [B, C, h, w]


class ConditionEmbedding(ControlNetConditioningEmbedding):
    """The library's condition encoder that lets through what it has already made."""

    def forward(self, conditioning: torch.Tensor | Embedded) -> torch.Tensor:
        return conditioning.maps if isinstance(conditioning, Embedded) else super().forward(conditioning)


def accept_embedded(controlnet: ControlNetModel) -> None:
    """Change a ControlNet in place so that it takes `embed(controlnet, ...)` for its condition."""
    controlnet.controlnet_cond_embedding.__class__ = ConditionEmbedding


def embed(controlnet: ControlNetModel, conditioning: torch.Tensor) -> Embedded:
    return Embedded(controlnet.controlnet_cond_embedding(conditioning))


class KeptContext:
    """Attention to a context of 1 or B rows whose keys and values are kept until another tensor comes."""

    def __init__(self):
        self.context: torch.Tensor | None = None
        self.key: torch.Tensor | None = None
        self.value: torch.Tensor | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        if encoder_hidden_states is not self.context:
            self.context = encoder_hidden_states
            self.key, self.value = split(attn.to_k(self.context)), split(attn.to_v(self.context))
        query = split(attn.to_q(hidden_states))
        key, value = (x.expand(len(query), -1, -1, -1) for x in (self.key, self.value))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return attn.to_out[0](read.transpose(1, 2).flatten(-2))


@contextmanager
def kept_contexts(*networks: nn.Module) -> Iterator[None]:
    """Within the block, the networks' attentions to text and tokens project each context once.

    Not for training: the kept projections belong to one call's graph.
    """
    found = [
        module
        for network in networks
        for name, module in network.named_modules()
        if isinstance(module, Attention) and name.endswith(("attn2", "_expression_attention"))
    ]
    before = [module.processor for module in found]
    for module in found:
        module.set_processor(KeptContext())
    try:
        yield
    finally:
        for module, processor in zip(found, before, strict=True):
            module.set_processor(processor)
