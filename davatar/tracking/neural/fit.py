"""The neural stage over a recording: one loop over stages that are data (settings.Stage).

Gauss-Newton stages live in `gauss_newton`, Adam stages (the published schedule) in `adam`. Camera axes, m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from davatar.core.errors import ConfigError
from davatar.core.progress import Progress, silent
from davatar.headmodel.head_model import HeadModel
from davatar.prior.code_prior import CodePrior
from davatar.tracking import energies
from davatar.tracking.joint import key_frames
from davatar.tracking.linear import LinearFit
from davatar.tracking.neural import adam, gauss_newton
from davatar.tracking.neural.evidence import EvidenceSource
from davatar.tracking.neural.gauss_newton import NeuralProblem, fit_frame, joint_round, linearise
from davatar.tracking.neural.prior_pull import PriorPull
from davatar.tracking.neural.variables import CodeSpace, NeuralState
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import NeuralSettings, Stage


@dataclass(frozen=True)
class NeuralFit:
    identity: np.ndarray  # [Di] code
    scale: float  # metres of the recording per metre of the model
    states: list[NeuralState]  # one per row; rows without evidence keep the linear fit's values
    inliers: np.ndarray  # [T] mean robust weight
    residual_mm: np.ndarray  # [T] weighted mean |distance|


def check_stages(settings: NeuralSettings) -> None:
    """
    Raises:
        ConfigError: a stage asks for an energy its solver does not have, moves nothing, or has no surface energy.
    """
    if not settings.stages:
        raise ConfigError("the neural fit has no stages", mend="take a preset (open, dphm) or list stages")
    known = {"gauss_newton": gauss_newton.ENERGIES, "adam": adam.ENERGIES}
    for stage in settings.stages:
        unknown = set(stage.weights) - known[stage.solver]
        if unknown or not stage.moves or "surface" not in stage.weights:
            found = f"unknown energies {sorted(unknown)}" if unknown else "no surface energy or nothing to move"
            mend = f"{stage.solver} knows {', '.join(sorted(known[stage.solver]))}"
            raise ConfigError(f"stage {stage.name!r} of the neural fit has {found}", mend=mend)
        foreign = {"adam": ("keys", "spread"), "gauss_newton": ("pairs",)}[stage.solver]
        if stage.frames in foreign:
            raise ConfigError(
                f"stage {stage.name!r}: {stage.solver} cannot fit frames {stage.frames!r}",
                mend="gauss_newton takes start, keys, each, spread; adam takes start, each, pairs",
            )


def fit_neural(
    recording: Recording,
    linear: LinearFit,
    model: HeadModel,
    settings: NeuralSettings,
    results: Results,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> NeuralFit:
    """Fit codes and poses, starting from the linear fit.

    Args:
        results, check: as in `linear.fit_linear`.

    Raises:
        ConfigError: the stages do not fit together.
        MissingError: a prior that a stage uses is absent.
    """
    check_stages(settings)
    space = CodeSpace.of(model)
    identity, expression = space.start(linear.identity, np.array([row.state.expression for row in linear.rows]))
    poses = [(row.state.rotation, row.state.translation) for row in linear.rows]
    states = [NeuralState(*pose, code) for pose, code in zip(poses, expression, strict=True)]
    problem = _problem(space, settings, recording.seed)
    run = _Run(recording, linear, states, problem, results, progress, check)
    scale = 1.0
    for number, stage in enumerate(settings.stages):
        key = f"neural-{number}-{stage.name}"
        if stage.solver == "adam":
            parts = recording, linear, problem, stage, key, results, progress, check
            states, identity, scale = adam.run_stage(*parts, states, identity, scale)
        elif stage.frames == "each":
            states = run.each(key, stage, states, identity)
        else:
            states, identity = run.together(key, stage, states, identity)
    return run.finished(states, identity, scale)


def _problem(space: CodeSpace, settings: NeuralSettings, seed: int) -> NeuralProblem:
    """Priors are read only if a stage uses them."""
    wanted = {name for stage in settings.stages for name, weight in stage.weights.items() if weight}
    levels, draws = settings.noise_levels, settings.draws
    pulls = {}
    for energy, name, basis in (
        ("sds_expr", settings.expression_prior, space.expression_basis),
        ("sds_shape", settings.identity_prior, space.identity_basis),
    ):
        prior = CodePrior.from_pretrained(name) if energy in wanted else None
        pulls[energy] = None if prior is None else PriorPull(prior, basis, levels, draws, seed)
    gaussian = energies.expression_prior(settings.prior_floor) if space.morphable else None
    return NeuralProblem(space, settings, gaussian, pulls["sds_expr"], pulls["sds_shape"])


class _Run:
    def __init__(self, recording, linear, starts, problem, results, progress, check):
        self.recording, self.linear, self.problem = recording, linear, problem
        self.results, self.progress, self.check = results, progress, check
        settings = problem.settings
        self.source = EvidenceSource(recording, linear, starts, settings.cut_mm, settings.hidden_mm)

    def _usable(self) -> list[int]:
        return [row for row, found in enumerate(self.linear.rows) if found.tracked]

    def each(self, key: str, stage: Stage, states, identity) -> list[NeuralState]:
        """Every row for itself, in order; the temporal energy looks at the row before."""
        states = list(states)
        before = None
        with self.progress.task(f"neural fit: {stage.name}", len(states)) as task:
            for row in range(len(states)):
                if self.linear.rows[row].tracked:
                    kept = self.results.get(f"{key}-{row:05d}")
                    if kept is None:
                        evidence = self.source.of(row, stage.points)
                        states[row], figures = fit_frame(self.problem, stage, evidence, states[row], identity, before)
                        self.results.put(f"{key}-{row:05d}", **_arrays([states[row]]))
                        task.advance(mm=figures.residual_mm)
                        self.check()
                    else:
                        states[row] = _states(kept)[0]
                        task.advance()
                    before = states[row].expression
                else:
                    task.advance()
                    before = None
        return states

    def together(self, key: str, stage: Stage, states, identity) -> tuple[list[NeuralState], np.ndarray]:
        """Chosen rows and the identity by joint rounds."""
        chosen = self._chosen(stage)
        evidence = None
        with self.progress.task(f"neural fit: {stage.name}", stage.iterations * len(chosen)) as task:
            for count in range(stage.iterations):
                kept = self.results.get(f"{key}-{count}")
                if kept is None:
                    evidence = evidence or [self.source.of(row, stage.points) for row in chosen]
                    now = [states[row] for row in chosen]
                    before = [self._neighbour(states, row) if stage.frames == "spread" else None for row in chosen]
                    width = self.problem.settings.kernel * max(stage.width * 0.6**count, 1.0)
                    now, identity = joint_round(
                        self.problem, stage, evidence, now, identity, before, width, task.advance
                    )
                    self.results.put(f"{key}-{count}", identity=identity, **_arrays(now))
                    self.check()
                else:
                    now, identity = _states(kept), kept["identity"]
                    task.advance(len(chosen))
                states = list(states)
                for row, state in zip(chosen, now, strict=True):
                    states[row] = state
        return states, identity

    def _neighbour(self, states, row: int) -> np.ndarray | None:
        tracked = row > 0 and self.linear.rows[row - 1].tracked
        return states[row - 1].expression if tracked else None

    def _chosen(self, stage: Stage) -> list[int]:
        usable = self._usable()
        if stage.frames == "start":
            return [self.linear.start]
        if stage.frames == "keys":
            rows = [self.linear.rows[row] for row in usable]
            keys = key_frames([r.state for r in rows], [r.inliers for r in rows], self.problem.settings.key_frames)
            return [usable[k] for k in keys]
        count = min(self.problem.settings.joint_frames, len(usable))
        return [usable[k] for k in np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))]

    def finished(self, states, identity, scale) -> NeuralFit:
        """Figures of every row at the end."""
        inliers, residual = np.zeros(len(states)), np.zeros(len(states))
        stage = Stage(weights={"surface": 1.0})
        for row in self._usable():
            kept = self.results.get(f"neural-end-{row:05d}")
            if kept is None:
                state = states[row]
                evidence = self.source.of(row, 1000)
                if scale != 1.0:  # figures are those of the scaled head: bring the recording to its size
                    evidence = replace(evidence, points=evidence.points / scale)
                    state = NeuralState(state.rotation, state.translation / scale, state.expression)
                parts = self.problem, stage, evidence, state, identity, self.problem.settings.kernel
                _, figures = linearise(*parts, None, False)
                kept = {"figures": np.array([figures.inliers, figures.residual_mm * scale])}
                self.results.put(f"neural-end-{row:05d}", **kept)
                self.check()
            inliers[row], residual[row] = kept["figures"]
        return NeuralFit(identity, scale, states, inliers, residual)


def _arrays(states: list[NeuralState]) -> dict[str, np.ndarray]:
    return {
        "rotation": np.array([state.rotation for state in states]),
        "translation": np.array([state.translation for state in states]),
        "expression": np.array([state.expression for state in states]),
    }


def _states(arrays: dict[str, np.ndarray]) -> list[NeuralState]:
    poses = zip(arrays["rotation"], arrays["translation"], arrays["expression"], strict=True)
    return [NeuralState(*pose) for pose in poses]
