"""Section C: the 1-D U-Net over codes (spec dphm 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.fixture import (
    array,
    described,
    device,
    holds,
    read_arrays,
    read_json,
    read_weights,
    tensor,
)
from davatar.checks.verify.recipe import recipe_weights
from davatar.prior.unet import UNet1d

PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
TOLERANCE = {"f32": 2e-5, "f64": 1e-6}  # an independent implementation agreed to 2.4e-6 and 1e-14


def network_shapes(net: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in UNet1d(**net).state_dict().items()}


def build_network(about: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | None = None) -> UNet1d:
    """
    Args:
        about: a fixture's description: `net`, and `seed` and `gain` for weights made by recipe.
        weights: stored weights.
    """
    net = about["net"]
    if weights is None:
        weights = recipe_weights(network_shapes(net), about["seed"], about.get("gain", 1.0))
    network = UNet1d(**net)
    network.load_state_dict(weights)
    return network.to(device()).requires_grad_(False)


def network_beside(path: Path, about: Mapping[str, Any]) -> UNet1d:
    stored = path.with_suffix(".safetensors")
    return build_network(about, read_weights(stored) if stored.is_file() else None)


def _network(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    network = network_beside(path, described(arrays))
    for suffix, dtype in PRECISIONS.items():
        network = network.to(dtype)
        x, t = tensor(arrays["x"], dtype).requires_grad_(), tensor(arrays["t"])
        earlier = [tensor(arrays["x_self_cond"], dtype)] if "x_self_cond" in arrays else []
        y = network(x, t, *earlier)
        (pull,) = torch.autograd.grad((tensor(arrays["probe"], dtype) * y).sum(), x)
        bits, tolerance = f"float{suffix[1:]}", TOLERANCE[suffix]
        yield compare(path.name, f"output, {bits}", array(y), arrays[f"y_{suffix}"], tolerance)
        expected = arrays[f"d_probe_x_{suffix}"]
        yield compare(path.name, f"gradient by input, {bits}", array(pull), expected, tolerance, relative=True)
        if suffix == "f32" and "time_embed_f32" in arrays:
            embedding = array(network.time_mlp(t.to(dtype)))
            yield compare(path.name, f"time embedding, {bits}", embedding, arrays["time_embed_f32"], tolerance)


def net_of_shapes(listed: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Arguments of the U-Net whose weights have these shapes."""
    width, channels = listed["init_conv.weight"][0], listed["final_conv.bias"][0]
    levels = 1 + max(int(key.split(".")[1]) for key in listed if key.startswith("downs."))
    mults = tuple(listed[f"downs.{level}.3.weight"][0] // width for level in range(levels))
    conditioned = listed["init_conv.weight"][1] == 2 * channels
    return {"dim": width, "dim_mults": mults, "channels": channels, "self_condition": conditioned}


def _shapes(path: Path) -> Iterator[Comparison]:
    listed = {key: tuple(shape) for key, shape in read_json(path).items()}
    wrong = np.array([len(network_shapes(net_of_shapes(listed)).items() ^ listed.items())])
    yield compare(path.name, "keys and shapes that differ", wrong, np.zeros_like(wrong), 0)


def _lists_network(path: Path) -> bool:
    if not (path.name.startswith("C_") and path.suffix == ".json"):
        return False
    text = path.read_bytes()
    return b'"init_conv.weight"' in text and b'"downs.0.3.weight"' in text


CHECKS = (
    Check("dphm C", lambda path: holds(path, "C", {"x", "t", "probe", "y_f32", "y_f64", "config"}), _network),
    Check("dphm C", _lists_network, _shapes),
)
