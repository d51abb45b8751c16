"""Passes of the linear fit over the frames of a recording; every finished frame is kept.

A frame whose robust weight drops against its neighbours is also tried from a fresh geometric start; what then
still fits nothing is called lost and carries its neighbour's values. Frames: camera axes, m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from davatar.core.progress import Progress
from davatar.tracking.frame_fit import FrameFit, Problem, fit_frame, linearise
from davatar.tracking.joint import joint_round
from davatar.tracking.pose import REFUSE
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.start import find_head
from davatar.tracking.variables import FrameState, extrapolated

TRACKED, RESTARTED, LOST, SKIPPED = 0, 1, 2, 3
MEMORY = 20  # frames of the running median of the robust weight
NOTHING_FITS = 0.3  # share of the usual robust weight below which a frame is lost


@dataclass(frozen=True)
class Row:
    """One frame's result."""

    state: FrameState
    inliers: float  # mean robust weight
    residual_mm: float
    flag: int
    cut: np.ndarray  # [3] m, camera axes: centre of the head region the samples are cut about

    @property
    def tracked(self) -> bool:
        return self.flag < LOST

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "rotation": self.state.rotation,
            "translation": self.state.translation,
            "expression": self.state.expression,
            "cut": self.cut,
            "figures": np.array([self.inliers, self.residual_mm, self.flag]),
        }

    @staticmethod
    def of(arrays: dict[str, np.ndarray]) -> Row:
        state = FrameState(arrays["rotation"], arrays["translation"], arrays["expression"])
        inliers, residual, flag = arrays["figures"]
        return Row(state, float(inliers), float(residual), int(flag), arrays["cut"])


@dataclass(frozen=True)
class Passes:
    """
    Args:
        check: called after every item; it may raise to stop.
    """

    recording: Recording
    results: Results
    progress: Progress
    check: Callable[[], None]

    def track(self, name: str, problem: Problem, first: Row, start: int, identity: np.ndarray) -> list[Row]:
        """Frame by frame from row `start`, forwards then backwards, each predicted from its neighbours.

        Args:
            first: the fit of row `start`.
        """
        rows: dict[int, Row] = {}
        with self.progress.task("linear fit: frame by frame", len(self.recording)) as task:
            for order in (range(start, len(self.recording)), range(start - 1, -1, -1)):
                history = [rows[start] if rows else first]
                quality = [history[0].inliers]
                for row in order:
                    known = self._kept(f"{name}-{row:05d}")
                    rows[row] = known or self._tracked(problem, row, identity, history, quality)
                    if known is None:
                        self.results.put(f"{name}-{row:05d}", **rows[row].arrays())
                    if rows[row].tracked:
                        history.append(rows[row])
                        quality.append(rows[row].inliers)
                    else:
                        history = history[-1:]  # a velocity across a gap means nothing
                    task.advance()
                    self.check()
        return [rows[row] for row in range(len(self.recording))]

    def _kept(self, key: str) -> Row | None:
        arrays = self.results.get(key)
        return None if arrays is None else Row.of(arrays)

    def _tracked(self, problem: Problem, row: int, identity, history: list[Row], quality: list[float]) -> Row:
        settings, last = problem.settings, history[-1].state
        guess = extrapolated(last, history[-2].state if len(history) > 1 else None)
        cut = region_center(guess)
        sample = self.recording.sample(row, cut)
        if sample is None:
            return Row(last, 0.0, 0.0, SKIPPED, cut)
        fit = fit_frame(
            problem,
            sample,
            guess,
            identity,
            start_width=settings.track_width,
            steps=settings.track_steps,
            previous=last.expression,
        )
        usual = float(np.median(quality[-MEMORY:]))
        if fit.inliers >= settings.lost * usual:
            return Row(fit.state, fit.inliers, fit.residual_mm, TRACKED, cut)
        fresh, fresh_cut = self._restarted(problem, row, identity)
        if fresh is not None and fresh.inliers > fit.inliers:
            return Row(fresh.state, fresh.inliers, fresh.residual_mm, RESTARTED, fresh_cut)
        if fit.inliers >= NOTHING_FITS * usual:
            return Row(fit.state, fit.inliers, fit.residual_mm, TRACKED, cut)
        self.progress.warn(f"frame {self.recording.frames[row]}: the head is lost; its neighbour's pose is kept")
        return Row(last, fit.inliers, fit.residual_mm, LOST, cut)

    def _restarted(self, problem: Problem, row: int, identity) -> tuple[FrameFit | None, np.ndarray]:
        """The fit from a fresh geometric start, or None if no head is found."""
        found = find_head(self.recording.frame(row), self.recording.seed)
        if found is None or found.pose.score > REFUSE:
            return None, np.zeros(3)
        state = FrameState(found.pose.rotation, found.pose.translation, problem.prior.mean.copy())
        fit = fit_frame(
            problem,
            self.recording.sample(row, found.center),
            state,
            identity,
            start_width=problem.settings.first_width,
            steps=problem.settings.track_steps + 4,
        )
        return fit, found.center

    def joint(
        self,
        name: str,
        problem: Problem,
        rows: Sequence[Row],
        chosen: Sequence[int],
        identity: np.ndarray,
        rounds: int,
        temporal: bool,
    ) -> tuple[list[Row], np.ndarray]:
        """Identity and the chosen rows together; returns all rows (the others unchanged) and the identity.

        Args:
            temporal: hold the weights near those of the row before.
        """
        states = [rows[k].state for k in chosen]
        samples = None
        with self.progress.task(f"linear fit: {len(chosen)} frames together", rounds * len(chosen)) as task:
            for count in range(rounds):
                kept = self.results.get(f"{name}-{count}")
                if kept is not None:
                    identity = kept["identity"]
                    poses = zip(kept["rotation"], kept["translation"], kept["expression"], strict=True)
                    states = [FrameState(*pose) for pose in poses]
                    task.advance(len(chosen))
                    continue
                samples = samples or [self.recording.sample(k, rows[k].cut) for k in chosen]
                before = [states[k - 1].expression if temporal and k else None for k in range(len(states))]
                states, identity = joint_round(
                    problem, samples, states, identity, before, problem.settings.kernel, task.advance
                )
                self.results.put(
                    f"{name}-{count}",
                    identity=identity,
                    rotation=np.array([state.rotation for state in states]),
                    translation=np.array([state.translation for state in states]),
                    expression=np.array([state.expression for state in states]),
                )
                self.check()
        after = list(rows)
        for k, state in zip(chosen, states, strict=True):
            after[k] = replace(rows[k], state=state)
        return after, identity

    def refine(
        self,
        name: str,
        problem: Problem,
        rows: Sequence[Row],
        identity: np.ndarray,
        steps: int,
        width: float,
        settled: frozenset[int] = frozenset(),
    ) -> list[Row]:
        """A few more steps for every tracked row from where it is, and its figures.

        Args:
            width: how many times wider the kernel begins.
            settled: rows that only get their figures.
        """
        shape = problem.surface.shape(identity)
        out: list[Row] = []
        with self.progress.task("linear fit: every frame again", len(rows)) as task:
            for k, row in enumerate(rows):
                known = self._kept(f"{name}-{k:05d}")
                if known is None and row.tracked:
                    sample = self.recording.sample(k, row.cut)
                    if k in settled:
                        narrowest = problem.settings.kernel
                        _, inliers, residual = linearise(problem, sample, row.state, shape, narrowest, False, None)
                        known = replace(row, inliers=inliers, residual_mm=residual)
                    else:
                        before = out[-1].state.expression if out and out[-1].tracked else None
                        fit = fit_frame(
                            problem, sample, row.state, identity, start_width=width, steps=steps, previous=before
                        )
                        known = replace(row, state=fit.state, inliers=fit.inliers, residual_mm=fit.residual_mm)
                    self.results.put(f"{name}-{k:05d}", **known.arrays())
                out.append(known or row)
                task.advance()
                self.check()
        return out


def region_center(state: FrameState) -> np.ndarray:
    """Where the votes of `segmentation` meet for a head in this pose; head regions are cut about it."""
    return state.place(np.array([[0.0, 0.059, 0.018]]))[0]
