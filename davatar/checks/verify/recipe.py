"""Weights of fixtures that do not store them: numbers from numpy's frozen legacy generator, one stream per tensor.

The stream's seed is the checksum of the tensor's name, mixed with the fixture's seed; so a tensor's values depend
neither on the others nor on their order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

DECODER_GAIN = 1.4142135
DECODER_SHARES = {  # of decoders only, by the end of a tensor's name: these layers are made gentler
    "defDeepSDF.lin6.weight": 0.15,
    "defDeepSDF.lin6.bias": 0.3,
    "mlp_pos.4.weight": 0.1,
    "mlp_pos.4.bias": 0.3,
}


def recipe_weights(
    shapes: Mapping[str, Sequence[int]], seed: int, gain: float = 1.0, shares: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Float32 tensors of the given names and shapes.

    Args:
        gain: of matrices, over the root of their inputs.
        shares: end of a name -> factor on its tensor.
    """
    return {key: torch.from_numpy(_one(key, tuple(shape), seed, gain, shares or {})) for key, shape in shapes.items()}


def _one(key: str, shape: tuple[int, ...], seed: int, gain: float, shares: Mapping[str, float]) -> np.ndarray:
    stream = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) % 2**32)
    values = stream.standard_normal(math.prod(shape)).reshape(shape)
    scales_a_norm = key.endswith(".g") or (len(shape) == 1 and key.endswith("norm.weight"))
    if scales_a_norm:
        values = 1 + 0.1 * values
    elif len(shape) == 1:
        values = 0.05 * values
    else:
        values = values * gain / math.sqrt(math.prod(shape[1:]))
    for end, share in shares.items():
        if key.endswith(end):
            values = values * share
    return values.astype(np.float32)
