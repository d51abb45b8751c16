"""The published checkpoint layout of NPHM decoders (spec dphm 1.8) <-> our parameters.

Widths are read from tensor shapes; what shapes do not tell (neighbours, blend width, mean anchors)
is passed in. Arrays in, module out; the archive itself is read by `published_checkpoint`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from davatar.core.errors import DataError
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM, NPHMConfig

_MEMBER = "deepSDFensemble.layers.{}.layers.{}.{}"
_MEMBER_KEY = re.compile(r"deepSDFensemble\.layers\.(\d+)\.layers\.(\d+)\.(?:weight|bias)")
_COLOUR = re.compile(r"communcation_bottleneck[12]\.|aggr_app\.")  # spelt so there; geometry does not need them


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
    telling = ("mlp_pos.0.weight", "mlp_pos.4.weight", _MEMBER.format(0, 0, "weight"))
    missing = [key for key in telling if key not in identity]
    missing += [key for key in ("compressor.0.weight", "defDeepSDF.lin0.weight") if key not in deformation]
    if missing:
        raise DataError(f"not the states of a published head model: {', '.join(missing)} missing")
    try:
        anchors = identity["mlp_pos.4.weight"].shape[0] // 3
        position_width, global_size = identity["mlp_pos.0.weight"].shape
        local_size, rest = divmod(identity_size - global_size, anchors + 1)
        member_width, member_inputs = identity[_MEMBER.format(0, 0, "weight")].shape
        places = [match for key in identity if (match := _MEMBER_KEY.fullmatch(key))]
        types, last = (1 + max(int(match[1]) for match in places), max(int(match[2]) for match in places))
        hyper = member_inputs - global_size - local_size - 3
        count = max(int(m[1]) for k in deformation if (m := re.fullmatch(r"defDeepSDF\.lin(\d+)\.weight", k)))
        compressed_size = deformation["compressor.0.weight"].shape[0]
        width, inputs = deformation["defDeepSDF.lin0.weight"].shape
    except ValueError as error:
        raise DataError(f"not the states of a published head model: {error}") from error
    if rest or hyper < 0 or local_size < 1:
        sizes = f"{identity_size} numbers per identity, {anchors} anchors, {global_size} global numbers"
        raise DataError(f"code table and decoder do not fit each other: {sizes}, {member_inputs} inputs of a member")
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


def published_shapes(config: NPHMConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Keys and shapes of the two published states of such a head model: identity decoder, deformation."""
    hidden, anchors = config.position_width, config.anchors
    sizes = [config.global_size + config.local_size + 3 + config.hyper] + [config.member_width] * config.member_layers
    identity, deformation = {}, {}
    for member in range(anchors + 1 - config.pairs):
        for layer, (inputs, outputs) in enumerate(zip(sizes, [*sizes[1:], 1], strict=True)):
            identity |= _linear(_MEMBER.format(member, 2 * layer, "{}"), inputs, outputs)
    for layer, (inputs, outputs) in enumerate([(config.global_size, hidden), (hidden, hidden), (hidden, 3 * anchors)]):
        identity |= _linear(f"mlp_pos.{2 * layer}.{{}}", inputs, outputs)
    deformation |= _linear("compressor.0.{}", config.identity_size + 3 * anchors, config.compressed_size)
    seen, count = 3 + config.compressed_size + config.expression_size, config.deformation_layers
    for layer in range(count + 1):
        inputs = (config.deformation_width if layer else 0) + (seen if layer in (0, count // 2) else 0)
        outputs = config.deformation_width if layer < count else 3 + config.hyper
        deformation |= _linear(f"defDeepSDF.lin{layer}.{{}}", inputs, outputs)
    return identity, deformation


def _linear(key: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {key.format("weight"): (outputs, inputs), key.format("bias"): (outputs,)}


def misfits(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], name: str) -> list[str]:
    """What is wrong with a state, one phrase per key; keys of the colour branch are fine."""
    wrong = [f"{name} lacks {key}" for key in shapes if key not in state]
    for key, value in state.items():
        if key not in shapes:
            wrong += [] if _COLOUR.match(key) else [f"{name} has the unexpected {key}"]
        elif tuple(value.shape) != shapes[key]:
            wrong.append(f"{name} holds {key} as {list(value.shape)}, expected {list(shapes[key])}")
    return wrong


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
        DataError: tensors are missing, unexpected or of another shape than `config` says; every one is named.
    """
    shapes = published_shapes(config)
    wrong = misfits(identity, shapes[0], "id_decoder") + misfits(deformation, shapes[1], "ex_decoder")
    if wrong:
        raise DataError(f"the published weights do not fit: {'; '.join(wrong)}")
    mean = torch.from_numpy(MEAN_ANCHORS) if mean_anchors is None else mean_anchors
    model = NPHM(config, mean.to(identity["mlp_pos.0.weight"].dtype)).to(identity["mlp_pos.0.weight"].dtype)
    types = config.anchors + 1 - config.pairs
    state = {"identity.mean_anchors": model.identity.mean_anchors}
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
    return model


def published_states(model: NPHM) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The way back: the two states of a model with the published layers, under their published keys."""
    identity, deformation = {}, {}
    for layer, parts in enumerate(zip(model.identity.weights, model.identity.biases, strict=True)):
        for kind, values in zip(("weight", "bias"), parts, strict=True):
            identity |= {_MEMBER.format(m, 2 * layer, kind): value for m, value in enumerate(values)}
    for layer, linear in enumerate(model.identity.position):
        identity |= {f"mlp_pos.{2 * layer}.{kind}": value for kind, value in linear.state_dict().items()}
    deformation |= {f"compressor.0.{kind}": value for kind, value in model.deformation.compressor.state_dict().items()}
    for layer, linear in enumerate(model.deformation.layers):
        deformation |= {f"defDeepSDF.lin{layer}.{kind}": value for kind, value in linear.state_dict().items()}
    return identity, deformation
