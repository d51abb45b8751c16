"""Section D: the tracker's energies and their gradients along recorded fits (spec dphm 6).

Every recorded iteration is recomputed at the recorded codes and poses: the parameters after a step are those before
the next. Energies that our tracker has are compared one by one; where the recording weighs no others, so are the
gradients that its optimisers were given. Sums over frames follow the recording, which counts some terms twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.dphm_decoder import build_decoder, mean_anchors, shared_decoder
from davatar.checks.verify.dphm_diffusion import OBJECTIVES
from davatar.checks.verify.dphm_unet import build_network, net_of_shapes, network_shapes
from davatar.checks.verify.fixture import array, beside, described, holds, read_arrays, read_weights, tensor
from davatar.core.errors import DataError
from davatar.diffusion.schedule import cosine_schedule
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.morphable import UNITS_PER_METRE
from davatar.prior.code_prior import CodePrior, Kind
from davatar.prior.normalization import RangeNormalization
from davatar.tracking.neural import adam_energies
from davatar.tracking.neural.adam_energies import Cuts, Variables

ENERGIES = 2e-5  # relative, float32; an independent implementation agreed to 1.9e-6
GRADIENTS = 1e-4  # relative
RESIDUAL_MM = 1e-4  # mean over a frame's points
FIRST_CUT, JOINT_CUT = 0.1, 0.0075  # head-model units
SCAN = ("surface", "normals_cosin", "anchors")
LABELS = {"geo": "identity", "exp": "expression", "quat": "rotation", "trans": "translation", "scale": "scale"}
Place = tuple[str, int | None]  # a state array, and the row of it (None: all of it)


class Inputs:
    """What all recorded fits of a folder share: head model, priors, points."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]):
        self.arrays = arrays
        size = arrays["gt_geo"].shape[-1]
        mean = mean_anchors(path, len(MEAN_ANCHORS))
        network = build_decoder(shared_decoder(path, size), about.get("decoder", {}), size, mean, torch.float32)
        self.model = HeadModel(network, None, "", path.name)
        self.slots = tensor(arrays["order"]).long()

    def frame(self, name: str, frame: int) -> Tensor:
        return tensor(self.arrays[name], torch.float32)[frame]


def common_inputs(path: Path) -> tuple[Inputs, dict[str, CodePrior]]:
    """Inputs and priors of a recorded stage.

    Raises:
        DataError: the shared arrays do not lie beside it.
    """
    source = beside(path, "D", {"points", "landmarks", "geo0", "exp0", "config"})
    if source is None:
        raise DataError("the points and start that it was made from do not lie beside it (geo0, exp0)", file=path)
    arrays = read_arrays(source)
    about = described(arrays)
    priors = {}
    for kind, name in (("identity", "geo"), ("expression", "exp")):
        made = {"net": about[f"net_{name}"], "seed": about[f"seed_{name}"], "gain": about.get("gain", 1.0)}
        priors[kind] = _prior(kind, build_network(made), arrays, name, about)
    return Inputs(path, arrays, about), priors


def _prior(kind: str, network, arrays: Mapping[str, np.ndarray], name: str, about: Mapping[str, Any]) -> CodePrior:
    low, high = (float(arrays[f"{end}_{name}"]) for end in ("minimum", "maximum"))
    codes = RangeNormalization(low, high, arrays[f"gt_{name}"].shape[-1])
    prediction = OBJECTIVES[about.get("objective", "pred_v")]
    return CodePrior(kind, network, cosine_schedule(about.get("timesteps", 1000)), prediction, codes)


class _Recording:
    """One recorded stage and where it stands. Rows count its own frames; state arrays have a row per frame."""

    def __init__(self, path: Path):
        self.name, self.arrays = path.name, read_arrays(path)
        self.inputs, self.priors = common_inputs(path)
        self.meta = described(self.arrays, "meta")
        self.frames = self.arrays["frames"].tolist()
        start = self.inputs.arrays
        self.state = {
            "geo": start["geo0"][0, 0],
            "exp": start["exp0"][self.frames, 0].copy(),
            "quat": start["quaternion0"][self.frames].copy(),
            "trans": start["translation0"][self.frames].copy(),
            "scale": start["scale0"],
        }
        self.steps: Counter[int] = Counter()
        self.evaluations = self.noises = 0

    def leaves(self) -> dict[str, Tensor]:
        made = {name: tensor(np.array(value), torch.float32) for name, value in self.state.items()}
        return {name: value.requires_grad_() for name, value in made.items()}

    def here(self, leaves: Mapping[str, Tensor], row: int) -> Variables:
        moving = (leaves[name][row] for name in ("exp", "quat", "trans"))
        return Variables(leaves["geo"], *moving, leaves["scale"])

    def next_points(self, row: int) -> tuple[Tensor, Tensor]:
        """Drawn points, and normals turned outward: they are recorded inward."""
        chosen, frame = tensor(self.arrays["indices"][self.evaluations]).long(), self.frames[row]
        self.evaluations += 1
        return self.inputs.frame("points", frame)[chosen], -self.inputs.frame("normals", frame)[chosen]

    def fit_to_scan(self, here: Variables, row: int, cuts: Cuts, iteration: int) -> dict[str, Tensor]:
        """surface, normals_cosin and anchors of one frame, at the next recorded draw."""
        parts = self.inputs.model, here, *self.next_points(row), cuts, iteration
        marks = self.inputs.frame("landmarks", self.frames[row])
        anchors = adam_energies.anchors(self.inputs.model, here, marks, self.inputs.slots)
        return dict(zip(SCAN, (*adam_energies.surface_and_normals(*parts), anchors), strict=True))

    def next_pull(self, kind: Kind, codes: Tensor, iteration: int) -> Tensor:
        """A scalar whose value and gradient by `codes` [B, L] are the prior's."""
        noise = tensor(self.arrays[f"noise_{self.noises:03d}"], torch.float32)[:, 0]
        self.noises += 1
        t, options = int(self.arrays["t"].ravel()[iteration]), self.meta["sds"]
        mode = "score" if options["skip_unet"] else "denoise"
        value, gradient = self.priors[kind].guidance(codes.detach(), t, noise, mode, options["grad_scale"])
        joined = (codes * gradient).sum()
        return joined + (value - joined).detach()

    def take_step(self, optimiser: int, moved: tuple[Place, ...]) -> dict[str, Place]:
        """Move on to the recorded parameters; returns the names of the recorded gradients and what they are of."""
        name = f"opt{optimiser}_step{self.steps[optimiser]}"
        self.steps[optimiser] += 1
        gradients = {}
        for k, place in enumerate(moved):
            state, row = place
            value = self.arrays[f"{name}_param{k}"]
            if row is None:
                self.state[state] = value.reshape(np.shape(self.state[state]))
            else:
                self.state[state][row] = value.reshape(-1)
            if f"{name}_grad{k}" in self.arrays:
                gradients[f"{name}_grad{k}"] = place
        return gradients


Iteration = tuple[dict[str, Tensor], dict[str, Tensor], dict[int, tuple[Place, ...]]]  # energies, leaves, optimisers


def _init(recording: _Recording) -> Iterator[Iteration]:
    count, cuts = len(recording.frames), cuts_of(recording.meta["n_steps"])
    optimisers = {0: (("geo", None),), 1: (("exp", None),), 2: (("quat", None), ("trans", None), ("scale", None))}
    for iteration in range(len(recording.arrays["loss_values"])):
        leaves = recording.leaves()
        here = [recording.here(leaves, row) for row in range(count)]
        each = [recording.fit_to_scan(one, row, cuts, iteration) for row, one in enumerate(here)]
        terms = {name: torch.stack([one[name] for one in each]).mean() for name in SCAN}
        if count > 1:  # there the points of all frames are cut and averaged together
            del terms["surface"]
        terms["sds_shape"] = recording.next_pull("identity", leaves["geo"][None], iteration)
        terms["sds_expr"] = recording.next_pull("expression", leaves["exp"], iteration)
        if count == 2:
            terms |= joined(here[1], here[0])
        yield terms, leaves, optimisers


def _incremental(recording: _Recording) -> Iterator[Iteration]:
    state, steps, cuts = recording.state, recording.meta["n_steps2"], cuts_of(recording.meta["n_steps"])
    for row in range(1, len(recording.frames)):
        state["exp"][row] = state["exp"][row - 1]
        for step in range(steps):
            leaves = recording.leaves()
            here, before = recording.here(leaves, row), recording.here(leaves, row - 1)
            terms = recording.fit_to_scan(here, row, cuts, step)
            terms["sds_expr"] = recording.next_pull(
                "expression", leaves["exp"][row : row + 1], (row - 1) * steps + step
            )
            terms |= adam_energies.change(here, before, ("reg_expre_smo", "reg_rot", "reg_trans"))
            optimiser = 2 * (row - 1)
            yield terms, leaves, {optimiser: (("exp", row),), optimiser + 1: (("quat", row), ("trans", row))}


def _joint(recording: _Recording) -> Iterator[Iteration]:
    """Of a chunk's two frames only the second's normals and anchors count; neighbours' changes as recorded (6.6)."""
    for iteration, first in enumerate(recording.arrays["perm"].ravel().tolist()):
        leaves = recording.leaves()
        terms = {"sds_shape": 2 * recording.next_pull("identity", leaves["geo"][None], iteration)}
        for row in (first, first + 1):
            here = recording.here(leaves, row)
            found = recording.fit_to_scan(here, row, ((0, JOINT_CUT),), 0)
            found["sds_expr"] = recording.next_pull("expression", leaves["exp"][row : row + 1], iteration)
            found |= joined(here, recording.here(leaves, row - 1 if row else 1))
            for name, value in found.items():
                keeps_last = name in ("normals_cosin", "anchors")
                terms[name] = value if keeps_last else terms.get(name, 0) + value
        moves = {0: (("geo", None),), 1: (("scale", None),)}
        for row in (first, first + 1):
            moves |= {2 + 2 * row: (("exp", row),), 3 + 2 * row: (("quat", row), ("trans", row))}
        yield terms, leaves, moves


STAGES: dict[str, Callable[[_Recording], Iterator[Iteration]]] = {
    "init": _init,
    "incremental": _incremental,
    "joint": _joint,
}


def cuts_of(steps: int) -> Cuts:
    """The hard truncation's schedule in a stage of so many steps."""
    return ((0, FIRST_CUT), (int(0.25 * steps) + 1, 0.05), (int(0.5 * steps) + 1, JOINT_CUT))


def joined(here: Variables, other: Variables) -> dict[str, Tensor]:
    """Change between two frames; both feel its pull."""
    names = ("smooth_expr", "smooth_rot", "smooth_trans")
    there, back = (adam_energies.change(*pair, names) for pair in ((here, other), (other, here)))
    return {name: there[name] + back[name] - back[name].detach() for name in names}


def _stage(path: Path) -> Iterator[Comparison]:
    recording = _Recording(path)
    weights = {name: weight for name, weight in recording.meta["lambdas"].items() if weight}
    columns, chunk = recording.arrays["loss_names"].tolist(), 2 if recording.meta["stage"] == "joint" else 1
    values: dict[str, list[float]] = {}
    pulls: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for terms, leaves, moves in STAGES[recording.meta["stage"]](recording):
        for name, value in terms.items():
            values.setdefault(name, []).append(value.item())
        gradients = {}
        if weights.keys() <= terms.keys():
            total = sum(weight * terms[name] for name, weight in weights.items()) / chunk
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            gradients = dict(zip(leaves, found, strict=True))
        for optimiser, moved in moves.items():
            for key, (name, row) in recording.take_step(optimiser, moved).items():
                if gradients:
                    value = gradients[name] if row is None else gradients[name][row]
                    expected = recording.arrays[key]
                    pulls.setdefault(LABELS[name], []).append((array(value).reshape(expected.shape), expected))
    for name, found in values.items():
        expected = recording.arrays["loss_values"][:, columns.index(name)]
        yield compare(path.name, f"energy {name}", np.array(found), expected, ENERGIES, relative=True)
    for label, pairs in pulls.items():
        yield max((compare(path.name, f"gradient by {label}", *pair, GRADIENTS, True) for pair in pairs), key=_badness)


def _shared_inputs(path: Path) -> Iterator[Comparison]:
    """What the recorded stages start from; it holds nothing to recompute by itself."""
    yield from ()


def _badness(comparison: Comparison) -> float:
    return np.inf if np.isnan(comparison.error) else comparison.error


def _full_run(path: Path) -> Iterator[Comparison]:
    """Residuals at the recorded results of every stage, and the energies at the very start."""
    arrays = read_arrays(path)
    inputs = Inputs(path, arrays, described(arrays))
    count = len(arrays["points"])
    no_codes = [np.zeros_like(arrays["gt_geo"]), np.zeros_like(arrays["gt_exp"])]
    poses = [arrays[f"{name}0"] for name in ("quaternion", "translation", "scale")]
    results = {"start": (*no_codes, *poses)}
    for key in arrays:
        stage = key.removeprefix("err_mm_")
        if key.startswith("err_mm_") and stage != "start":
            results[stage] = tuple(arrays[f"{stage}_{name}"] for name in ("geo", "exp", "quat", "trans", "scale"))
    with torch.no_grad():
        for stage, (geo, exp, *pose) in results.items():
            expected, found = arrays[f"err_mm_{stage}"], []
            for row in range(min(count, len(expected))):
                parts = geo[0, 0], exp[row, 0], pose[0][row], pose[1][row], pose[2]
                here = Variables(*(tensor(np.array(value), torch.float32) for value in parts))
                distance = adam_energies.surface(inputs.model, here, inputs.frame("points", row), (), 0)
                found.append(distance.item() * float(pose[2]) / UNITS_PER_METRE * 1000)
            yield compare(path.name, f"mean distance at {stage}, mm", np.array(found), expected, RESIDUAL_MM)
    stored = path.with_name(f"{path.stem}_unets.safetensors")
    if stored.is_file():
        yield from _first_pulls(path, arrays, read_weights(stored))


def _first_pulls(path: Path, arrays: Mapping[str, np.ndarray], weights: Mapping[str, Tensor]) -> Iterator[Comparison]:
    """The trained priors of a full run, at its first iteration: all codes are zero."""
    columns = arrays["init_loss_names"].tolist()
    for kind, name, term in (("identity", "geo", "sds_shape"), ("expression", "exp", "sds_expr")):
        of_kind = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        net = net_of_shapes({key: tuple(value.shape) for key, value in of_kind.items()})
        network = build_network({"net": net}, {key: of_kind[key] for key in network_shapes(net)})
        prior = _prior(kind, network, arrays, name, {})
        noise = tensor(arrays[f"init_noise_{name}"][0][:, 0], torch.float32)
        value, _ = prior.guidance(torch.zeros_like(noise), int(arrays["init_t"][0]), noise)
        expected = arrays["init_loss_values"][0, columns.index(term)]
        yield compare(path.name, f"energy {term} at the start", array(value), expected, ENERGIES, relative=True)


CHECKS = (
    Check("dphm D", lambda path: holds(path, "D", {"meta", "frames", "indices", "loss_values", "t"}), _stage),
    Check("dphm D", lambda path: holds(path, "D", {"points", "gt_geo", "err_mm_start", "init_geo"}), _full_run),
    Check("dphm D", lambda path: holds(path, "D", {"points", "landmarks", "geo0", "exp0", "config"}), _shared_inputs),
)
