"""Head models of fixtures: from stored or recipe-made weights, widths from the tensors or the fixture's description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davatar.checks.verify.fixture import beside, device, read_arrays, read_weights
from davatar.checks.verify.recipe import DECODER_GAIN, DECODER_SHARES, recipe_weights
from davatar.core.errors import DataError
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM, NPHMConfig
from davatar.headmodel.published import config_from_shapes, from_published, published_shapes

PREFIXES = ("id_model.", "ex_model.")
_WIDTHS = {  # name in a fixture's description -> ours
    "glob": "global_size",
    "loc": "local_size",
    "hid": "member_width",
    "nl": "member_layers",
    "K": "neighbours",
    "std": "blend_std",
    "nhyp": "hyper",
    "exp": "expression_size",
    "lid": "compressed_size",
    "ehid": "deformation_width",
    "enl": "deformation_layers",
    "pos": "position_width",
}


def described_config(about: Mapping[str, Any], anchors: int, members: int) -> NPHMConfig:
    """Widths as a fixture describes them; what it does not say is as published."""
    said = {ours: about[theirs] for theirs, ours in _WIDTHS.items() if theirs in about}
    return NPHMConfig(**said, anchors=anchors, pairs=anchors + 1 - members)


def prefixed_shapes(config: NPHMConfig) -> dict[str, tuple[int, ...]]:
    parts = zip(PREFIXES, published_shapes(config), strict=True)
    return {prefix + key: shape for prefix, part in parts for key, shape in part.items()}


def decoder_of_recipe(config: NPHMConfig, seed: int, gain: float = DECODER_GAIN) -> dict[str, Tensor]:
    return recipe_weights(prefixed_shapes(config), seed, gain, DECODER_SHARES)


def build_decoder(
    weights: Mapping[str, Tensor], about: Mapping[str, Any], identity_size: int, mean: np.ndarray, dtype: torch.dtype
) -> NPHM:
    """
    Args:
        weights: both states under their prefixes.
        about: the fixture's description; neighbours and blend width are read from it.
        mean: [K, 3] mean anchors.
    """
    parts = [
        {key.removeprefix(prefix): value.to(dtype) for key, value in weights.items() if key.startswith(prefix)}
        for prefix in PREFIXES
    ]
    config = config_from_shapes(*parts, identity_size, about.get("K", 8), about.get("std", 4.0))
    return from_published(*parts, config, torch.from_numpy(mean).to(dtype)).to(device()).requires_grad_(False)


def mean_anchors(path: Path, count: int) -> np.ndarray:
    """[K, 3] of the fixture's folder, else the published table (rounded to eight decimals).

    Raises:
        DataError: neither has that many.
    """
    stored = beside(path, "A", {"anchors_f32", "anchors_f64"}, without={"queries"})
    mean = MEAN_ANCHORS if stored is None else read_arrays(stored)["anchors_f32"]  # what the originals computed with
    if len(mean) != count:
        raise DataError(f"no table of {count} mean anchors lies beside it", file=path)
    return mean


def shared_decoder(path: Path, identity_size: int) -> dict[str, Tensor]:
    """The stored decoder that several fixtures of a folder were made with: of section D, for codes of this size.

    Raises:
        DataError: there is none.
    """
    for other in sorted(path.parent.glob("D_*.safetensors")):
        weights = read_weights(other)
        compressor, anchors = (
            weights.get(key) for key in ("ex_model.compressor.0.weight", "id_model.mlp_pos.4.weight")
        )
        if compressor is not None and compressor.shape[1] - anchors.shape[0] == identity_size:
            return weights
    raise DataError("the decoder that it was made with does not lie beside it", file=path)
