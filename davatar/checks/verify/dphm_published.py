"""A set of checkpoints in the published layout, through the loaders that users call (spec dphm 1.8, 4.3, 4.5).

`expected.npz` beside `pretrain_models/` says what the head model and the priors in it give.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.fixture import array, array_names, device, read_arrays, tensor
from davatar.core.errors import DataError
from davatar.headmodel.published_checkpoint import is_published, load_published
from davatar.prior.published import load_published as load_prior

MODELS = "pretrain_models"
TOLERANCE = 2e-5  # float32
RANGE = 1e-6


def _published(path: Path) -> Iterator[Comparison]:
    arrays, folders = read_arrays(path), sorted(p for p in (path.parent / MODELS).iterdir() if p.is_dir())
    head = next((folder for folder in folders if is_published(folder)), None)
    if head is None:
        raise DataError("holds no head model in the published layout", file=path.parent / MODELS)
    yield from _head(path, head, arrays)
    for prefix, word in (("shape", "iden"), ("expre", "expr")):
        folder = next((folder for folder in folders if word in folder.name.lower()), None)
        if f"{prefix}_x" in arrays and folder is not None:
            yield from _prior(path, folder, prefix, arrays)


@torch.no_grad()
def _head(path: Path, folder: Path, arrays: dict[str, np.ndarray]) -> Iterator[Comparison]:
    head = load_published(folder)
    network, queries = head.network.to(device()), tensor(arrays["queries"])
    identity = head.identities[int(arrays["geo_index"])][None].to(device())
    expression = head.expressions[int(arrays["exp_index"])][None].to(device())
    canonical = network.to_canonical(queries, identity, expression)
    found = {
        "sdf": network.identity(canonical, identity)[..., None],
        "anchors": network.identity.anchors(identity),
        "offsets": canonical[..., :3] - queries,
    }
    for name, value in found.items():
        yield compare(path.name, f"{folder.name}: {name}", array(value), arrays[name], TOLERANCE)


@torch.no_grad()
def _prior(path: Path, folder: Path, prefix: str, arrays: dict[str, np.ndarray]) -> Iterator[Comparison]:
    for weights in ("model", "ema"):
        prior = load_prior(folder, weights)
        found = prior.network.to(device())(tensor(arrays[f"{prefix}_x"]), tensor(arrays[f"{prefix}_t"]))
        label = f"{folder.name}: output of {weights}"
        yield compare(path.name, label, array(found), arrays[f"{prefix}_y_{weights}"], TOLERANCE)
    ends = np.array([prior.normalization.low, prior.normalization.high])
    expected = np.array([arrays[f"{prefix}_minimum"], arrays[f"{prefix}_maximum"]])
    yield compare(path.name, f"{folder.name}: range of codes", ends, expected, RANGE)
    milestone = np.array(prior.about["milestone"])
    yield compare(path.name, f"{folder.name}: newest milestone", milestone, arrays[f"{prefix}_milestone"], 0)


def _recognises(path: Path) -> bool:
    return {"queries", "geo_index", "exp_index", "sdf"} <= array_names(path) and (path.parent / MODELS).is_dir()


CHECKS = (Check("dphm published", _recognises, _published),)
