"""The published checkpoint layout of NPHM decoders (spec dphm 1.8) <-> our parameters.

Widths are read from tensor shapes; what shapes do not tell (neighbours, blend width, mean anchors)
is passed in. Arrays in, module out; reading the archive itself is the caller's.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from davatar.core.errors import DataError
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM, NPHMConfig

_MEMBER = "deepSDFensemble.layers.{}.layers.{}.{}"


def config_from_shapes(
    identity: dict[str, Tensor],
    deformation: dict[str, Tensor],
    identity_size: int,
    neighbours: int = 8,
    blend_std: float = 4.0,
) -> NPHMConfig:
    """Widths of a published pair of state dicts.

    Args:
        identity, deformation: states of the two decoders, upstream's keys.
        identity_size: length of an identity code (columns of the code table).

    Raises:
        DataError: the keys or shapes are not those of such decoders.
    """
    try:
        anchors = identity["mlp_pos.4.weight"].shape[0] // 3
        position_width, global_size = identity["mlp_pos.0.weight"].shape
        local_size = (identity_size - global_size) // (anchors + 1)
        member_width, member_inputs = identity[_MEMBER.format(0, 0, "weight")].shape
        types = 1 + max(int(k.split(".")[2]) for k in identity if k.startswith("deepSDFensemble"))
        last = max(int(k.split(".")[4]) for k in identity if k.startswith("deepSDFensemble"))
        hyper = member_inputs - global_size - local_size - 3
        count = max(int(m[1]) for k in deformation if (m := re.fullmatch(r"defDeepSDF\.lin(\d+)\.weight", k)))
        compressed_size = deformation["compressor.0.weight"].shape[0]
        width, inputs = deformation["defDeepSDF.lin0.weight"].shape
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"not the states of a published head model: {error}") from error
    return NPHMConfig(
        global_size=global_size,
        local_size=local_size,
        anchors=anchors,
        pairs=anchors + 1 - types,
        neighbours=neighbours,
        blend_std=blend_std,
        member_width=member_width,
        member_layers=last // 2,
        position_width=position_width,
        hyper=hyper,
        expression_size=inputs - 3 - compressed_size,
        compressed_size=compressed_size,
        deformation_width=width,
        deformation_layers=count,
    )


def from_published(
    identity: dict[str, Tensor],
    deformation: dict[str, Tensor],
    config: NPHMConfig,
    mean_anchors: Tensor | None = None,
) -> NPHM:
    """A module with the weights of a published pair of state dicts.

    Args:
        identity, deformation: upstream's keys; keys of the colour branch are ignored.
        config: from `config_from_shapes`.
        mean_anchors: [K, 3]; the table of spec 9.1 when None.

    Raises:
        DataError: a tensor is missing or has another shape than `config` says.
    """
    mean = torch.from_numpy(MEAN_ANCHORS) if mean_anchors is None else mean_anchors
    model = NPHM(config, mean.to(identity["mlp_pos.0.weight"].dtype)).to(identity["mlp_pos.0.weight"].dtype)
    types = config.anchors + 1 - config.pairs
    state = {"identity.mean_anchors": model.identity.mean_anchors}
    try:
        for layer in range(config.member_layers + 1):
            for kind, name in (("weight", "weights"), ("bias", "biases")):
                parts = [identity[_MEMBER.format(m, 2 * layer, kind)] for m in range(types)]
                state[f"identity.{name}.{layer}"] = torch.stack(parts)
        for kind in ("weight", "bias"):
            for layer in range(3):
                state[f"identity.position.{layer}.{kind}"] = identity[f"mlp_pos.{2 * layer}.{kind}"]
            state[f"deformation.compressor.{kind}"] = deformation[f"compressor.0.{kind}"]
            for layer in range(config.deformation_layers + 1):
                state[f"deformation.layers.{layer}.{kind}"] = deformation[f"defDeepSDF.lin{layer}.{kind}"]
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise DataError(f"the published weights do not fit: {error}") from error
    return model
