"""Section A: losses, gradients and full steps of the published head-model training, float64 (spec dphm 3.3-3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.dphm_decoder import PREFIXES, build_decoder, mean_anchors, shared_decoder
from davatar.checks.verify.fixture import array, beside, described, holds, read_arrays, tensor
from davatar.core.errors import DataError
from davatar.headmodel.auto_decoder import AutoDecoder
from davatar.headmodel.nphm import NPHM
from davatar.headmodel.published import published_states
from davatar.headmodel.published_losses import REGULARISED_BOX, ScanBatch, published_losses, total_loss

LOSSES = 1e-6  # relative; an independent implementation agreed to 4e-8
GRADIENTS = 1e-5  # relative
STEPPED = 1e-10  # tables and weights after up to three steps
BATCH = {  # ours -> the fixture's
    "surface": "points_surface",
    "surface_normal": "normals_surface",
    "outer": "points_surface_outer",
    "outer_normal": "normals_surface_outer",
    "near": "points_off_surface",
    "far": "sup_grad_far",
    "posed": "corresp_posed",
    "neutral": "corresp_neutral",
    "anchors": "gt_anchors",
}
FLAGS = {
    "is_neutral": "is_neutral",
    "has_correspondences": "has_corresp",
    "has_anchors": "has_anchors",
    "supervise_hair": "supervise_hair",
}


def _model(path: Path, arrays: Mapping[str, np.ndarray]) -> NPHM:
    size, count = arrays["geo"].shape[-1], arrays["gt_anchors"].shape[-2]
    weights, mean = shared_decoder(path, size), mean_anchors(path, count)
    return build_decoder(weights, described(arrays), size, mean, torch.float64).requires_grad_(True)


def _batch(arrays: Mapping[str, np.ndarray]) -> ScanBatch:
    parts = {ours: tensor(arrays[theirs]) for ours, theirs in BATCH.items()}
    parts |= {ours: tensor(arrays[theirs]).bool() for ours, theirs in FLAGS.items()}
    return ScanBatch(**parts, regularised=tensor((arrays["reg_rand"] - 0.5) * 2 * REGULARISED_BOX))


def _losses(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    model, batch = _model(path, arrays), _batch(arrays)
    names = arrays["loss_names"].tolist()
    weights = dict(zip(names, arrays["lambdas"].tolist(), strict=True))
    values, totals, gradients = [], [], []
    position, middle = model.identity.position[0].weight, model.deformation.layers[model.deformation.middle].weight
    for epoch in arrays["epochs"].tolist():
        codes = [tensor(arrays[key][:, 0]).requires_grad_() for key in ("geo", "exp")]
        losses = published_losses(model, batch, *codes, epoch)
        total = total_loss(losses, weights)
        values.append([losses[name].item() for name in names])
        totals.append(total.item())
        if epoch == 0:
            gradients = torch.autograd.grad(total, [*codes, position, middle])
    for name, found, expected in zip(names, np.array(values).T, arrays["loss_values"].T, strict=True):
        yield compare(path.name, f"training loss {name}", found, expected, LOSSES, relative=True)
    yield compare(path.name, "training loss, total", np.array(totals), arrays["total"], LOSSES, relative=True)
    for name, found in zip(("geo", "exp", "mlp_pos0", "lin3"), gradients, strict=False):
        expected = arrays[f"grad_{name}_epoch0"]
        value = array(found).reshape(expected.shape)
        yield compare(path.name, f"gradient by {name}", value, expected, GRADIENTS, relative=True)


def _steps(path: Path) -> Iterator[Comparison]:
    source = beside(path, "A", {"points_surface", "reg_rand", "gt_anchors", "config"})
    if source is None:
        raise DataError("the batch that it was trained on does not lie beside it (points_surface)", file=path)
    steps, arrays = read_arrays(path), read_arrays(source)
    trainer = AutoDecoder(_model(path, arrays), len(steps["geo_table0"]), len(steps["exp_table0"]))
    tables = {"geo": trainer.identity, "exp": trainer.expression}
    for name, table in tables.items():
        table.weight.data.copy_(tensor(steps[f"{name}_table0"]))
    batch, rows = _batch(arrays), [tensor(steps[f"{name}_index"][:, 0]) for name in ("subj", "exp")]
    for step, total in enumerate(steps["totals"], start=1):
        figures, label = trainer.step(batch, *rows, int(steps["epoch"])), f"step {step}"
        yield compare(path.name, f"total, {label}", np.array(figures["loss"]), total, LOSSES, relative=True)
        norms = np.array([figures["norm_identity"], figures["norm_deformation"]])
        expected = steps["grad_norms_before_clip"][step - 1]
        yield compare(path.name, f"gradient norms, {label}", norms, expected, LOSSES, relative=True)
        for name, table in tables.items():
            yield compare(
                path.name, f"{name} table, {label}", array(table.weight), steps[f"{name}_table{step}"], STEPPED
            )
        states = zip(PREFIXES, published_states(trainer.model), strict=True)
        state = {prefix + key: value for prefix, part in states for key, value in part.items()}
        kept = [key for key in steps if key.startswith(f"step{step}:")]
        found = np.concatenate([array(state[key.partition(":")[2]]).ravel() for key in kept])
        expected = np.concatenate([steps[key].ravel() for key in kept])
        yield compare(path.name, f"weights, {label}", found, expected, STEPPED)


CHECKS = (
    Check("dphm A", lambda path: holds(path, "A", {"points_surface", "reg_rand", "loss_values", "lambdas"}), _losses),
    Check("dphm A", lambda path: holds(path, "A", {"geo_table0", "exp_table0", "subj_index", "totals"}), _steps),
)
