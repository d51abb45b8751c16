"""The published transformer block: between text attention and feed-forward it reads the expression tokens.

    h = h + SelfAttn(LN1(h));  h = h + CrossAttn(LN2(h), text);  h = h + ExprAttn(h, tokens);  h = h + FF(LN3(h))

The new attention takes un-normalised hidden states; published weights need that (spec diffusion-avatars
5.5, 11.31). Tokens travel through diffusers in `cross_attention_kwargs`.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention

TOKENS = "expression_tokens"


class ExpressionBlock(BasicTransformerBlock):
    """Made by `add_expression_attention` out of a plain block; the middle block's has no attention of its own."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        cross_attention_kwargs: dict | None = None,
        class_labels: torch.Tensor | None = None,
        added_cond_kwargs: dict | None = None,
    ) -> torch.Tensor:
        h = hidden_states
        h = h + self.attn1(self.norm1(h), attention_mask=attention_mask)
        h = h + self.attn2(
            self.norm2(h), encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask
        )
        if hasattr(self, "_expression_attention"):
            h = h + self._expression_attention(h, encoder_hidden_states=cross_attention_kwargs[TOKENS])
        return h + self.ff(self.norm3(h))


def add_expression_attention(unet: UNet2DConditionModel) -> None:
    """Change a U-Net in place: new attention in every transformer of the down and up blocks.

    Query, key and value start as copies of the block's text attention; the output starts at zero, so the
    U-Net computes what it did before.
    """
    for name, block in unet.named_modules():
        if type(block) is BasicTransformerBlock:
            block.__class__ = ExpressionBlock
            if not name.startswith("mid_block"):
                block._expression_attention = _copy_of(block.attn2)


def _copy_of(text: Attention) -> Attention:
    made = Attention(
        query_dim=text.to_q.in_features,
        cross_attention_dim=text.to_k.in_features,
        heads=text.heads,
        dim_head=text.to_q.out_features // text.heads,
        upcast_attention=text.upcast_attention,
    )
    for part in ("to_q", "to_k", "to_v"):
        getattr(made, part).load_state_dict(getattr(text, part).state_dict())
    for tensor in made.to_out[0].parameters():
        torch.nn.init.zeros_(tensor)
    return made.to(text.to_q.weight.dtype)
