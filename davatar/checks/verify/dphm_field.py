"""Section A: the head model's field, its gradients and its parts, in both precisions (spec dphm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.dphm_decoder import (
    build_decoder,
    decoder_of_recipe,
    described_config,
    mean_anchors,
    prefixed_shapes,
)
from davatar.checks.verify.fixture import array, described, holds, read_arrays, read_json, read_weights, tensor
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM
from davatar.headmodel.published import config_from_shapes

PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
# The originals' own rounding: float64 values reproduce to 1e-7 (mean anchors have eight decimals), float32 to 2e-5.
VALUES = {"f32": 2e-5, "f64": 1e-6}
GRADIENTS = {"f32": 2e-4, "f64": 1e-5}
CODE_GRADIENTS = {"f32": 2e-4, "f64": 1e-5}  # relative: their size depends on the widths
SECOND_ORDER = 1e-4  # relative; float64 only


def recompute(model: NPHM, arrays: Mapping[str, np.ndarray], suffix: str) -> dict[str, np.ndarray]:
    """Every stored quantity of one precision, under its name in the fixture, batch axes as there."""
    dtype = PRECISIONS[suffix]
    x, identity, expression = (tensor(arrays[key], dtype) for key in ("queries", "geo", "exp"))
    x, identity, expression = (v.requires_grad_() for v in (x, identity[:, 0], expression[:, 0]))
    probe = tensor(arrays["probe"], dtype)
    canonical = model.to_canonical(x, identity, expression)
    sdf = model.identity(canonical, identity)
    (gradient,) = torch.autograd.grad(sdf.sum(), x, create_graph=True)
    found = {
        "sdf": sdf[..., None],
        "gradient": gradient,
        "offsets": canonical[..., :3] - x,
        "anchors": model.identity.anchors(identity),
    }
    pulls = {"probe": (probe[..., 0] * sdf).sum()}
    if suffix == "f64":
        given = tensor(arrays["queries_can_f64"], dtype)
        found |= {"hyper": canonical[..., 3:], "queries_can": canonical}
        found["sdf_canonical"] = model.identity(given, identity)[..., None]
        found["sdf_neutral"] = model(x, identity, torch.zeros_like(expression))[..., None]
        pulls["cos"] = (probe * gradient / gradient.norm(dim=-1, keepdim=True)).sum()
        pulls["abs"] = sdf.abs().mean()
    for name, value in pulls.items():
        by_code = torch.autograd.grad(value, (identity, expression), retain_graph=True)
        found |= {f"d_{name}_{code}": pull[:, None] for code, pull in zip(("geo", "exp"), by_code, strict=True)}
    return {f"{name}_{suffix}": array(value) for name, value in found.items()}


def blend_of(model: NPHM, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Slots and weights of every query, float64."""
    identity = tensor(arrays["geo"], torch.float64)[:, 0]
    canonical = tensor(arrays["queries_can_f64"], torch.float64)
    slots, weights = model.identity.blend(canonical[..., :3], model.identity.anchors(identity))
    return array(slots), array(weights)


def members_of(model: NPHM, rows: np.ndarray) -> np.ndarray:
    """Every member network on the same raw inputs [R, G + L + 3 + H] -> [M, R, 1], float64."""
    decoder, config = model.identity, model.config
    codes = config.global_size + config.local_size
    inputs, count = tensor(rows, torch.float64), len(decoder.weights[0])
    share = torch.einsum("rc,mwc->mrw", inputs[:, :codes], decoder.weights[0][..., :codes])
    share = share + decoder.biases[0][:, None]
    found = decoder.members(inputs[:, codes:].repeat(count, 1), share.flatten(0, 1), [len(rows)] * count)
    return array(found.reshape(count, len(rows), 1))


def _tolerance(name: str, suffix: str) -> tuple[float, bool]:
    if name.startswith("d_cos"):
        return SECOND_ORDER, True
    if name.startswith("d_"):
        return CODE_GRADIENTS[suffix], True
    return (GRADIENTS if name.startswith("gradient") else VALUES)[suffix], False


def _label(name: str) -> str:
    """ "d_cos_geo_f64" -> "d cos geo, float64"."""
    name, _, bits = name.rpartition("_f")
    return f"{name.replace('_', ' ')}, float{bits}"


def _field(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    about, count = described(arrays), arrays["anchors_f64"].shape[-2]
    stored = path.with_suffix(".safetensors")
    if stored.is_file():
        weights = read_weights(stored)
    else:
        config = described_config(about, count, len(arrays["member_out"]))
        weights = decoder_of_recipe(config, about["seed"], **({"gain": about["gain"]} if "gain" in about else {}))
    mean, size = mean_anchors(path, count), arrays["geo"].shape[-1]
    for suffix, dtype in PRECISIONS.items():
        model = build_decoder(weights, about, size, mean, dtype)
        for name, value in recompute(model, arrays, suffix).items():
            if name in arrays:
                tolerance, relative = _tolerance(name, suffix)
                yield compare(path.name, _label(name), value, arrays[name], tolerance, relative)
    slots, blend = blend_of(model, arrays)
    wrong = np.not_equal(slots, arrays["neighbours"]).sum(keepdims=True)
    yield compare(path.name, "neighbours that differ", wrong, np.zeros_like(wrong), 0)
    yield compare(path.name, "blend weights, float64", blend, arrays["blend"], VALUES["f64"])
    members = members_of(model, arrays["member_in"])
    yield compare(path.name, "member outputs, float64", members, arrays["member_out"], VALUES["f64"], relative=True)


def _anchors(path: Path) -> Iterator[Comparison]:
    """The table we carry has eight decimals, and is kept in float32."""
    stored = read_arrays(path)["anchors_f64"]
    if stored.shape == MEAN_ANCHORS.shape:
        yield compare(path.name, "mean anchors", MEAN_ANCHORS, stored, 3e-8)


def _shapes(path: Path) -> Iterator[Comparison]:
    """Key list of a decoder: what we read and write has the same keys and shapes."""
    listed = {key: tuple(shape) for key, shape in read_json(path).items()}
    states = [
        {key.removeprefix(prefix): torch.empty(shape, device="meta") for key, shape in listed.items() if prefix in key}
        for prefix in ("id_model.", "ex_model.")
    ]
    compressed_inputs = states[1]["compressor.0.weight"].shape[1]
    anchors = states[0]["mlp_pos.4.weight"].shape[0]
    ours = prefixed_shapes(config_from_shapes(*states, compressed_inputs - anchors))
    wrong = np.array([len(ours.items() ^ listed.items())])
    yield compare(path.name, "keys and shapes that differ", wrong, np.zeros_like(wrong), 0)


def _lists_decoder(path: Path) -> bool:
    if not (path.name.startswith("A_") and path.suffix == ".json"):
        return False
    return b"id_model.mlp_pos.0.weight" in path.read_bytes()


CHECKS = (
    Check("dphm A", lambda path: holds(path, "A", {"queries", "geo", "exp", "probe", "sdf_f64", "member_in"}), _field),
    Check("dphm A", lambda path: holds(path, "A", {"anchors_f64"}) and not holds(path, "A", {"queries"}), _anchors),
    Check("dphm A", _lists_decoder, _shapes),
)
