"""The published way to fit codes: Adam on points drawn anew at every iteration (spec dphm 6).

Stages "start" (init), "each" (incremental) and "pairs" (joint) differ in the frames they take and in what moves;
energies, rates and counts are data. Followed to the letter where spec 8.3 does not say otherwise; here the joint
stage does move expressions and counts every frame's terms once. Poses are quaternions (real part first) and the
position t of the head-model origin: x_H = 4 R^T (x_camera - t) / c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from davatar.core.progress import Progress
from davatar.headmodel.morphable import OFFSET, UNITS_PER_METRE
from davatar.prior.code_prior import CodePrior
from davatar.tracking.linear import LinearFit
from davatar.tracking.neural import adam_energies
from davatar.tracking.neural.adam_energies import Variables, rotation_of
from davatar.tracking.neural.gauss_newton import NeuralProblem
from davatar.tracking.neural.variables import NeuralState
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import Stage
from davatar.tracking.start import lifted_landmarks

ENERGIES = {
    "surface",
    "normals_cosin",
    "anchors",
    "sds_shape",
    "sds_expr",
    "reg_expre_smo",
    "reg_rot",
    "reg_trans",
    "smooth_expr",
    "smooth_rot",
    "smooth_trans",
}
ANCHOR_LANDMARKS = np.array([(0, 48), (1, 54), (35, 51), (34, 57), (10, 39), (12, 36), (11, 42), (13, 45)])
CROP = ((-np.inf, -0.45, -0.1), (np.inf, np.inf, 0.5))  # head-model units: the part of the cloud that is fitted


@dataclass
class _Frame(Variables):
    """One row's variables (leaves) and data."""

    points: Tensor  # [N, 3] m
    normals: Tensor  # [N, 3] outward
    landmarks: Tensor | None  # [8, 3] m, NaN = none

    def leaves(self, moves: tuple[str, ...]) -> dict[str, list[Tensor]]:
        found = {}
        if "expression" in moves:
            found["expression"] = [self.expression]
        if "pose" in moves:
            found["pose"] = [self.quaternion, self.translation]
        return found


class _Fitter:
    def __init__(self, recording, linear: LinearFit, problem: NeuralProblem, stage: Stage, identity, scale):
        self.recording, self.linear, self.problem, self.stage = recording, linear, problem, stage
        self.model = problem.space.model
        dtype = self.model.dtype
        self.identity = torch.as_tensor(identity, dtype=dtype).requires_grad_("identity" in stage.moves)
        self.scale = torch.tensor(float(scale), dtype=dtype, requires_grad="scale" in stage.moves)

    def frame(self, row: int, state: NeuralState) -> _Frame:
        dtype, linear, moving = self.model.dtype, self.linear.rows[row], self.stage.moves
        observation = self.recording.observe(row, linear.cut)
        head = UNITS_PER_METRE * (observation.points - linear.state.translation) @ linear.state.rotation + OFFSET
        inside = ((head > CROP[0]) & (head < CROP[1])).all(1) & (np.abs(observation.normals).sum(1) > 0)
        lifted = lifted_landmarks(self.recording.frame(row))
        frame = _Frame(
            self.identity,
            torch.empty(self.model.expression_size, dtype=dtype, requires_grad="expression" in moving),
            torch.empty(4, dtype=dtype, requires_grad="pose" in moving),
            torch.empty(3, dtype=dtype, requires_grad="pose" in moving),
            self.scale,
            torch.as_tensor(observation.points[inside], dtype=dtype),
            torch.as_tensor(observation.normals[inside], dtype=dtype),
            None if lifted is None else torch.as_tensor(lifted[ANCHOR_LANDMARKS[:, 1]], dtype=dtype),
        )
        self.place(frame, state)
        return frame

    @torch.no_grad()
    def place(self, frame: _Frame, state: NeuralState) -> None:
        """Set a frame's variables."""
        x, y, z, w = Rotation.from_matrix(state.rotation).as_quat()
        origin = state.translation - float(self.scale) * state.rotation @ (OFFSET / UNITS_PER_METRE)
        frame.expression.copy_(self.problem.space.expression(state.expression))
        frame.quaternion.copy_(torch.tensor([w, x, y, z]))
        frame.translation.copy_(torch.as_tensor(origin))

    def energies(self, frame: _Frame, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """surface, normals_cosin and anchors of one frame, those the stage weighs."""
        weights, cuts = self.stage.weights, self.stage.cuts
        chosen = torch.randint(len(frame.points), (self.stage.points,), generator=generator)
        points, found = frame.points[chosen], {}
        if weights.get("normals_cosin"):
            parts = self.model, frame, points, frame.normals[chosen], cuts, iteration
            found["surface"], found["normals_cosin"] = adam_energies.surface_and_normals(*parts)
        else:
            found["surface"] = adam_energies.surface(self.model, frame, points, cuts, iteration)
        if weights.get("anchors") and frame.landmarks is not None:
            there = torch.isfinite(frame.landmarks).all(-1)
            if there.any():
                slots = torch.as_tensor(ANCHOR_LANDMARKS[:, 0])[there]
                found["anchors"] = adam_energies.anchors(self.model, frame, frame.landmarks[there], slots)
        return found

    def prior_steps(self, frames: list[_Frame], generator: torch.Generator) -> dict[str, Tensor]:
        """sds_shape and sds_expr as scalars whose gradient is the prior's (value and gradient come ready)."""
        found, settings = {}, self.problem.settings
        pulls = [self.problem.identity_pull, self.problem.expression_pull]
        levels = min((pull.prior.steps for pull in pulls if pull is not None), default=1000)
        low, high = (min(int(level * levels), levels - 1) for level in settings.noise_levels)
        t = int(torch.randint(low, high + 1, (1,), generator=generator))
        wanted = [("sds_shape", self.problem.identity_pull, [self.identity])]
        wanted.append(("sds_expr", self.problem.expression_pull, [frame.expression for frame in frames]))
        for name, pull, leaves in wanted:
            if not self.stage.weights.get(name) or pull is None or not leaves[0].requires_grad:
                continue
            prior: CodePrior = pull.prior
            codes = torch.stack([leaf.detach() for leaf in leaves])
            value, gradient = prior.guidance(codes, t, mode="denoise", generator=generator)
            joined = sum((leaf * pull_of).sum() for leaf, pull_of in zip(leaves, gradient, strict=True))
            found[name] = joined + (value - joined).detach()
        return found

    def minimise(self, optimisers: list, terms: dict[str, Tensor]) -> None:
        total = sum(self.stage.weights[name] * value for name, value in terms.items() if name in self.stage.weights)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        for optimiser in optimisers:
            optimiser.step()

    def optimiser(self, groups: dict[str, list[Tensor]]) -> torch.optim.Adam:
        rates = self.stage.rates
        return torch.optim.Adam([{"params": leaves, "lr": rates[name]} for name, leaves in groups.items()])

    def shared(self) -> dict[str, list[Tensor]]:
        found = {}
        if "identity" in self.stage.moves:
            found["identity"] = [self.identity]
        if "scale" in self.stage.moves:
            found["scale"] = [self.scale]
        return found

    def state(self, frame: _Frame) -> NeuralState:
        rotation = rotation_of(frame.quaternion.detach().double()).numpy()
        origin = frame.translation.detach().double().numpy()
        translation = origin + float(self.scale.detach()) * rotation @ (OFFSET / UNITS_PER_METRE)
        code = frame.expression.detach().double().numpy()
        return NeuralState(rotation, translation, self.problem.space.expression_coefficients(code))


def _drop(optimiser: torch.optim.Adam, stage: Stage, iteration: int) -> None:
    if iteration in stage.drops:
        for group in optimiser.param_groups:
            group["lr"] /= 10


def run_stage(
    recording: Recording,
    linear: LinearFit,
    problem: NeuralProblem,
    stage: Stage,
    key: str,
    results: Results,
    progress: Progress,
    check: Callable[[], None],
    states: list[NeuralState],
    identity: np.ndarray,
    scale: float,
) -> tuple[list[NeuralState], np.ndarray, float]:
    """One Adam stage; finished frames (each), epochs (pairs) or the whole (start) are kept in `results`."""
    fitter = _Fitter(recording, linear, problem, stage, identity, scale)
    usable = [row for row, found in enumerate(linear.rows) if found.tracked]
    states = list(states)
    if stage.frames == "start":
        _start(fitter, linear.start, key, results, progress, check, states)
    elif stage.frames == "each":
        _each(fitter, usable, key, results, progress, check, states)
    else:
        _pairs(fitter, usable, key, results, progress, check, states)
    return states, fitter.identity.detach().double().numpy(), float(fitter.scale.detach())


def _start(fitter: _Fitter, row: int, key, results, progress, check, states) -> None:
    kept = results.get(key)
    if kept is None:
        frame = fitter.frame(row, states[row])
        optimiser = fitter.optimiser(fitter.shared() | frame.leaves(fitter.stage.moves))
        generator = torch.Generator().manual_seed(fitter.recording.seed)
        with progress.task(f"neural fit: {fitter.stage.name}", fitter.stage.iterations) as task:
            for iteration in range(fitter.stage.iterations):
                _drop(optimiser, fitter.stage, iteration)
                terms = fitter.energies(frame, iteration, generator) | fitter.prior_steps([frame], generator)
                fitter.minimise([optimiser], terms)
                task.advance(surface=float(terms["surface"].detach()))
                check()
        kept = _packed([fitter.state(frame)], fitter)
        results.put(key, **kept)
    _unpack(kept, [row], states, fitter)


def _each(fitter: _Fitter, usable, key, results, progress, check, states) -> None:
    stage, before = fitter.stage, None
    with progress.task(f"neural fit: {stage.name}", len(usable)) as task:
        for row in usable:
            kept = results.get(f"{key}-{row:05d}")
            if kept is None:
                start = states[row]
                if before is not None:
                    start = NeuralState(start.rotation, start.translation, states[before].expression)
                frame = fitter.frame(row, start)
                last = None if before is None else fitter.frame(before, states[before])
                optimiser = fitter.optimiser(frame.leaves(stage.moves))
                generator = torch.Generator().manual_seed(fitter.recording.seed * 1_000_003 + row)
                for iteration in range(stage.iterations):
                    _drop(optimiser, stage, iteration)
                    terms = fitter.energies(frame, iteration, generator) | fitter.prior_steps([frame], generator)
                    if last is not None:
                        terms |= adam_energies.change(frame, last, ("reg_expre_smo", "reg_rot", "reg_trans"))
                    fitter.minimise([optimiser], terms)
                kept = _packed([fitter.state(frame)], fitter)
                results.put(f"{key}-{row:05d}", **kept)
                check()
            _unpack(kept, [row], states, fitter)
            before = row
            task.advance()


def _pairs(fitter: _Fitter, usable, key, results, progress, check, states) -> None:
    """Chunks of two neighbouring rows in random order; `iterations` times over all of them."""
    stage = fitter.stage
    kept_epochs = [results.get(f"{key}-{epoch}") for epoch in range(stage.iterations)]
    done = next((k for k, kept in enumerate(kept_epochs) if kept is None), stage.iterations)
    frames = None
    with progress.task(f"neural fit: {stage.name}", stage.iterations * max(len(usable) - 1, 1)) as task:
        if done:
            _unpack(kept_epochs[done - 1], usable, states, fitter)
            task.advance(done * max(len(usable) - 1, 1))
        for epoch in range(done, stage.iterations):
            if frames is None:
                frames = [fitter.frame(row, states[row]) for row in usable]
                optimisers = [fitter.optimiser(frame.leaves(stage.moves)) for frame in frames]
                common = fitter.optimiser(fitter.shared()) if fitter.shared() else None
                _restore(kept_epochs[done - 1] if done else None, optimisers, common, stage, done)
            generator = torch.Generator().manual_seed(fitter.recording.seed * 1_000_003 + epoch)
            for optimiser in [*optimisers, *([common] if common else [])]:
                _drop(optimiser, stage, epoch)
            for k in torch.randperm(max(len(frames) - 1, 1), generator=generator).tolist():
                _pair(fitter, frames, optimisers, common, k, epoch, generator)
                task.advance()
            kept = _packed([fitter.state(frame) for frame in frames], fitter) | _moments(optimisers, common)
            results.put(f"{key}-{epoch}", **kept)
            for frame in frames:  # go on from what is kept, so that a resumed stage does exactly the same
                fitter.place(frame, fitter.state(frame))
            check()
    if frames is not None:
        for row, frame in zip(usable, frames, strict=True):
            states[row] = fitter.state(frame)


def _pair(fitter, frames, optimisers, common, k: int, epoch: int, generator) -> None:
    chunk = frames[k : k + 2]
    terms: dict[str, Tensor] = {}
    for frame in chunk:
        for name, value in fitter.energies(frame, epoch, generator).items():
            terms[name] = terms.get(name, 0) + value / len(chunk)
    terms |= fitter.prior_steps(chunk, generator)
    neighbours = [(chunk[0], frames[k - 1])] if k else []
    if len(chunk) == 2:
        neighbours.append((chunk[1], chunk[0]))
    for frame, other in neighbours:
        for name, value in adam_energies.change(frame, other, ("smooth_expr", "smooth_rot", "smooth_trans")).items():
            terms[name] = terms.get(name, 0) + value / 2
    moving = [*optimisers[k : k + 2], *([common] if common else [])]
    fitter.minimise(moving, terms)


def _moments(optimisers, common) -> dict[str, np.ndarray]:
    """Adam's memory, so that a resumed stage goes on as if it had not stopped."""
    out = {}
    for k, optimiser in enumerate([*optimisers, *([common] if common else [])]):
        for g, group in enumerate(optimiser.param_groups):
            for p, leaf in enumerate(group["params"]):
                for name, value in optimiser.state.get(leaf, {}).items():
                    out[f"adam.{k}.{g}.{p}.{name}"] = value.detach().numpy()
    return out


def _restore(kept, optimisers, common, stage: Stage, done: int) -> None:
    for k, optimiser in enumerate([*optimisers, *([common] if common else [])]):
        for iteration in range(done):
            _drop(optimiser, stage, iteration)
        for g, group in enumerate(optimiser.param_groups):
            for p, leaf in enumerate(group["params"]):
                prefix = f"adam.{k}.{g}.{p}."
                state = {name[len(prefix) :]: torch.as_tensor(value) for name, value in (kept or {}).items()
                         if name.startswith(prefix)}  # fmt: skip
                if state:
                    optimiser.state[leaf] = state


def _packed(states: list[NeuralState], fitter: _Fitter) -> dict[str, np.ndarray]:
    return {
        "rotation": np.array([state.rotation for state in states]),
        "translation": np.array([state.translation for state in states]),
        "expression": np.array([state.expression for state in states]),
        "identity": fitter.identity.detach().numpy(),
        "scale": fitter.scale.detach().numpy(),
    }


def _unpack(kept, rows, states: list[NeuralState], fitter: _Fitter) -> None:
    poses = zip(rows, kept["rotation"], kept["translation"], kept["expression"], strict=True)
    for row, *pose in poses:
        states[row] = NeuralState(*pose)
    with torch.no_grad():
        fitter.identity.copy_(torch.as_tensor(kept["identity"]))
        fitter.scale.copy_(torch.as_tensor(kept["scale"]))
