"""Which implementation computes the attention of the published kind's networks.

    sdpa        torch's own, the default
    xformers    a package of its own, for GPUs

The same numbers within rounding. While pictures are sampled, attention to text and tokens, whose keys are kept from
step to step (`hoisting`), stays with torch: it is the attention among pixels that takes time and memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, XFormersAttnProcessor
from torch import nn

from davatar.avatar.published_settings import AttentionName
from davatar.core.errors import MissingError, UsageError

OTHERWISE = "or leave it out: sdpa is the default"


def set_attention(networks: Iterable[nn.Module], name: AttentionName, device: torch.device | str) -> None:
    """Change every attention of the networks in place, added ones too.

    Args:
        device: where they will compute.

    Raises:
        MissingError: xformers is not installed. UsageError: it is, but the device is no GPU.
    """
    if name == "xformers":
        _check_xformers(torch.device(device))
    processor = XFormersAttnProcessor() if name == "xformers" else AttnProcessor2_0()
    for network in networks:
        for module in network.modules():
            if isinstance(module, Attention):
                module.set_processor(processor)


def _check_xformers(device: torch.device) -> None:
    try:
        import xformers.ops  # noqa: F401
    except ImportError as error:
        raise MissingError("xformers is not installed", mend=f"pip install xformers, {OTHERWISE}") from error
    if device.type != "cuda":
        raise UsageError(f"xformers needs a GPU, the device is {device}", mend=f"choose cuda, {OTHERWISE}")
