"""Section C: training steps of a prior, and the moving average of its weights (spec dphm 4.4, 4.5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.dphm_unet import network_beside
from davatar.checks.verify.fixture import array, described, holds, read_arrays, tensor
from davatar.diffusion.loss import training_loss
from davatar.diffusion.schedule import cosine_schedule
from davatar.prior.ema import Ema
from davatar.prior.normalization import RangeNormalization
from davatar.prior.settings import PriorSettings
from davatar.prior.training import make_optimiser

LOSSES = 2e-5  # relative
NORMS = 1e-4  # relative
WEIGHTS = 5e-6  # after up to three steps of 1e-4 in float32
AVERAGES = 1e-6  # relative


def _steps(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    about = described(arrays)
    network = network_beside(path, about).requires_grad_(True)
    table, schedule = tensor(arrays["table"]), cosine_schedule(about.get("T", 1000))
    codes = RangeNormalization(float(table.min()), float(table.max()), table.shape[1]).normalise(table)
    optimiser = make_optimiser(network, PriorSettings(learning_rate=about["lr"]))
    for step in range(len(arrays["losses"])):
        clean = codes[tensor(arrays[f"rows{step}"])][:, None]
        t, noise = tensor(arrays[f"t{step}"]), tensor(arrays[f"noise{step}"])
        optimiser.zero_grad()
        loss = training_loss(network, schedule, "v_prediction", clean, t, noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), about["clip"])
        optimiser.step()
        label, state = f"step {step + 1}", network.state_dict()
        yield compare(path.name, f"loss, {label}", array(loss), arrays["losses"][step], LOSSES, True)
        expected = arrays["grad_norms_before_clip"][step]
        yield compare(path.name, f"gradient norm, {label}", array(norm), expected, NORMS, True)
        kept = [key for key in arrays if key.startswith(f"step{step + 1}:")]
        found = [array(state[key.partition(":")[2]]).ravel() for key in kept]
        expected = np.concatenate([arrays[key].ravel() for key in kept])
        yield compare(path.name, f"weights, {label}", np.concatenate(found), expected, WEIGHTS)


def _average(path: Path) -> Iterator[Comparison]:
    arrays, ema, found = read_arrays(path), Ema(), []
    for online in arrays["online_weight"]:
        ema.update({"weight": tensor(online)})
        found.append(array(ema.average["weight"]).copy())
    yield compare(path.name, "moving average of weights", np.array(found), arrays["ema_weight"], AVERAGES, True)


CHECKS = (
    Check("dphm C", lambda path: holds(path, "C", {"table", "rows0", "t0", "noise0", "losses", "config"}), _steps),
    Check("dphm C", lambda path: holds(path, "C", {"online_weight", "ema_weight"}), _average),
)
