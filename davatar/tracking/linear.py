"""The linear stage: pose, expression weights and identity of the morphable head over a recording.

First frame -> track both ways -> key frames jointly -> track again -> all frames jointly. Frames: camera axes, m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from davatar.core.progress import Progress, silent
from davatar.tracking import energies
from davatar.tracking.frame_fit import FrameFit, Problem, fit_frame, linearise
from davatar.tracking.joint import joint_round, key_frames
from davatar.tracking.observation import NOISY
from davatar.tracking.pose import REFUSE
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import LinearSettings
from davatar.tracking.start import choose_start, find_head
from davatar.tracking.surface import fit_surface
from davatar.tracking.variables import FrameState, extrapolated

TRACKED, RESTARTED, LOST, SKIPPED = 0, 1, 2, 3
MEMORY = 20  # frames of the running median of the robust weight


@dataclass(frozen=True)
class Row:
    """One frame's result."""

    state: FrameState
    inliers: float  # mean robust weight
    residual_mm: float
    flag: int

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "rotation": self.state.rotation,
            "translation": self.state.translation,
            "expression": self.state.expression,
            "figures": np.array([self.inliers, self.residual_mm, self.flag]),
        }

    @staticmethod
    def of(arrays: dict[str, np.ndarray]) -> Row:
        state = FrameState(arrays["rotation"], arrays["translation"], arrays["expression"])
        inliers, residual, flag = arrays["figures"]
        return Row(state, float(inliers), float(residual), int(flag))


@dataclass(frozen=True)
class LinearFit:
    identity: np.ndarray  # [100]
    rows: list[Row]  # one per chosen frame, camera axes
    smooth: bool  # whether smoothed depth was fitted
    scalp: bool  # whether the scalp was fitted
    start: int  # the row the track began at


def fit_linear(
    recording: Recording,
    settings: LinearSettings,
    results: Results,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> LinearFit:
    """Fit the whole recording.

    Args:
        results: where finished items are kept; a second call continues there.
        check: called after every item; it may raise to stop.

    Raises:
        DataError: no frame can be read, or none holds a head.
    """
    problem = Problem(fit_surface(settings.scalp == "yes"), energies.expression_prior(settings.prior_floor), settings)
    start, first, smooth = _first_frame(problem, recording, results, progress)
    recording.smooth = smooth
    check()
    passage = _Passage(recording, results, progress, check)
    rows = passage.track("track-1", problem, first, start, first.identity, centers=None)
    centers = np.array([row.state.center for row in rows])
    scalp = settings.scalp == "yes" or (settings.scalp == "auto" and _is_bald(recording, rows, first.identity))
    if scalp:
        problem = replace(problem, surface=fit_surface(True))
    good = [k for k, row in enumerate(rows) if row.flag < LOST]
    keys = [good[k] for k in _keys([rows[k] for k in good], settings.key_frames)]
    rows, identity = passage.joint("keys", problem, rows, keys, first.identity, settings.key_rounds, centers, False)
    rows = passage.track("track-2", problem, replace(first, state=rows[start].state), start, identity, centers)
    good = [k for k, row in enumerate(rows) if row.flag < LOST]
    spread = np.unique(np.linspace(0, len(good) - 1, min(settings.joint_frames, len(good))).round().astype(int))
    chosen = [good[k] for k in spread]
    rows, identity = passage.joint("joint", problem, rows, chosen, identity, settings.joint_rounds, centers, True)
    rows = passage.polish("polish", problem, rows, set(chosen), identity, centers)
    return LinearFit(identity, rows, smooth, scalp, start)


def _keys(rows: list[Row], count: int) -> list[int]:
    return key_frames([row.state for row in rows], [row.inliers for row in rows], count)


def _first_frame(problem: Problem, recording: Recording, results: Results, progress: Progress):
    """Start row, its fit with all 159 unknowns, and whether the recording is noisy."""
    kept, settings = results.get("first"), problem.settings
    if kept is None:
        start, found, noise = choose_start(recording, settings.scan, progress)
        smooth = noise > NOISY if settings.smooth == "auto" else settings.smooth == "yes"
        recording.smooth = smooth
        state = FrameState(found.pose.rotation, found.pose.translation, problem.prior.mean.copy())
        fit = fit_frame(
            problem,
            recording.sample(start, found.center),
            state,
            np.zeros(100),
            start_width=settings.first_width,
            steps=settings.first_steps,
            free_identity=True,
        )
        row = Row(fit.state, fit.inliers, fit.residual_mm, TRACKED)
        results.put("first", **row.arrays(), identity=fit.identity, place=np.array([start, smooth]))
        return start, fit, smooth
    row = Row.of(kept)
    start, smooth = kept["place"]
    return int(start), FrameFit(row.state, kept["identity"], 0.0, row.inliers, row.residual_mm), bool(smooth)


def _is_bald(recording: Recording, rows: list[Row], identity: np.ndarray) -> bool:
    """Whether depth over the scalp lies on the scalp: half of it within 5 mm (hair stands off farther)."""
    whole = fit_surface(True)
    scalp = np.isin(whole.vertices, whole.model.sets["scalp"])
    shape = whole.shape(identity)
    near, seen = 0, 0
    for k in np.linspace(0, len(rows) - 1, min(5, len(rows))).round().astype(int):
        sample = recording.sample(int(k), rows[k].state.center) if rows[k].flag < LOST else None
        if sample is None:
            continue
        from davatar.tracking.correspondence import pair

        posed = whole.posed(shape, rows[k].state.expression)
        pairs = pair(
            sample.points, sample.normals, rows[k].state.place(posed), whole.normals(posed) @ rows[k].state.rotation.T
        )
        over = scalp[pairs.vertex]
        seen += int(over.sum())
        near += int((np.abs(pairs.residual[over]) < 0.005).sum())
    return seen >= 50 and near > 0.5 * seen


@dataclass
class _Passage:
    """Passes over the frames, every finished frame kept."""

    recording: Recording
    results: Results
    progress: Progress
    check: Callable[[], None]

    def track(self, name, problem, first, start, identity, centers) -> list[Row]:
        """Frame by frame from `start`, forwards then backwards.

        Args:
            centers: [T, 3] m where the head regions are cut; None = about each prediction.
        """
        rows: dict[int, Row] = {}
        orders = [range(start, len(self.recording)), range(start - 1, -1, -1)]
        with self.progress.task("linear: frame by frame", len(self.recording)) as task:
            for order in orders:
                history = [rows[start]] if rows else []
                quality = [rows[start].inliers] if rows else []
                for row in order:
                    rows[row] = self._tracked(name, row, problem, first, identity, history, quality, centers)
                    if rows[row].flag < LOST:
                        history.append(rows[row])
                        quality.append(rows[row].inliers)
                    elif len(history) > 1:
                        history = history[-1:]  # a velocity across a gap means nothing
                    task.advance()
                    self.check()
        return [rows[row] for row in range(len(self.recording))]

    def _tracked(self, name, row, problem, first, identity, history, quality, centers) -> Row:
        key = f"{name}-{row:05d}"
        kept = self.results.get(key)
        if kept is not None:
            return Row.of(kept)
        settings = problem.settings
        if history:
            last = history[-1].state
            guess = extrapolated(last, history[-2].state if len(history) > 1 else None)
            previous = last.expression
        else:
            guess, previous = first.state, None
        center = guess.center if centers is None else centers[row]
        sample = self.recording.sample(row, _vote_like(center))
        if sample is None:
            result = Row(history[-1].state if history else first.state, 0.0, 0.0, SKIPPED)
        else:
            fit = fit_frame(
                problem,
                sample,
                guess,
                identity,
                start_width=settings.track_width,
                steps=settings.track_steps,
                previous=previous,
            )
            flag = TRACKED
            usual = float(np.median(quality[-MEMORY:])) if quality else fit.inliers
            if fit.inliers < settings.lost * usual:
                fit, flag = self._recovered(row, problem, identity, fit, usual)
            state = fit.state if flag != LOST or not history else history[-1].state
            result = Row(state, fit.inliers, fit.residual_mm, flag)
        self.results.put(key, **result.arrays())
        return result

    def _recovered(self, row, problem, identity, fit, usual) -> tuple[FrameFit, int]:
        """The better of the tracked fit and one from a fresh geometric start; LOST if neither holds."""
        settings = problem.settings
        found = find_head(self.recording.frame(row), self.recording.seed)
        if found is not None and found.pose.score <= REFUSE:
            fresh = fit_frame(
                problem,
                self.recording.sample(row, found.center),
                FrameState(found.pose.rotation, found.pose.translation, problem.prior.mean.copy()),
                identity,
                start_width=settings.first_width,
                steps=settings.track_steps + 4,
            )
            if fresh.inliers > fit.inliers:
                return fresh, RESTARTED
        if fit.inliers < 0.3 * usual:
            return fit, LOST
        return fit, TRACKED

    def joint(self, name, problem, rows, chosen, identity, rounds, centers, temporal):
        """Identity and the chosen rows together; returns all rows (the others unchanged) and the identity."""
        states = [rows[k].state for k in chosen]
        samples = [self.recording.sample(k, _vote_like(centers[k])) for k in chosen]
        with self.progress.task(f"linear: {len(chosen)} frames together", rounds * len(chosen)) as task:
            for count in range(rounds):
                kept = self.results.get(f"{name}-{count}")
                if kept is None:
                    before = [states[k - 1].expression if temporal and k else None for k in range(len(states))]
                    width = problem.settings.kernel
                    states, identity = joint_round(
                        problem, samples, states, identity, before, width, lambda: task.advance()
                    )
                    self.results.put(
                        f"{name}-{count}",
                        identity=identity,
                        rotation=np.array([state.rotation for state in states]),
                        translation=np.array([state.translation for state in states]),
                        expression=np.array([state.expression for state in states]),
                    )
                    self.check()
                else:
                    identity = kept["identity"]
                    poses = zip(kept["rotation"], kept["translation"], kept["expression"], strict=True)
                    states = [FrameState(*pose) for pose in poses]
        rows = list(rows)
        for k, state in zip(chosen, states, strict=True):
            rows[k] = replace(rows[k], state=state)
        return rows, identity

    def polish(self, name, problem, rows, done, identity, centers) -> list[Row]:
        """Final figures of every row; rows that were not in the last joint fit get a few more steps."""
        out = []
        for k, row in enumerate(rows):
            key = f"{name}-{k:05d}"
            kept = self.results.get(key)
            if kept is None and row.flag < LOST:
                sample = self.recording.sample(k, _vote_like(centers[k]))
                if k in done:
                    shape = problem.surface.shape(identity)
                    width = problem.settings.kernel
                    _, inliers, residual = linearise(problem, sample, row.state, shape, width, False, None)
                    row = replace(row, inliers=inliers, residual_mm=residual)
                else:
                    before = out[-1].state.expression if out and out[-1].flag < LOST else None
                    fit = fit_frame(problem, sample, row.state, identity, start_width=1, steps=3, previous=before)
                    row = replace(row, state=fit.state, inliers=fit.inliers, residual_mm=fit.residual_mm)
                self.results.put(key, **row.arrays())
            elif kept is not None:
                row = Row.of(kept)
            out.append(row)
            self.check()
        return out


def _vote_like(center: np.ndarray) -> np.ndarray:
    """Head centre of a state -> about where the votes of `segmentation` meet, which the region is cut about."""
    return center - np.array([0.0, 0.049, 0.0])
