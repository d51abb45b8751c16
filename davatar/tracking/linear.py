"""The linear stage: pose, expression weights and identity of the morphable head over a recording.

First frame -> track both ways -> key frames jointly -> every frame again -> all frames jointly. What is found
here starts the neural stage. Frames: camera axes, m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from davatar.core.progress import Progress, silent
from davatar.tracking import energies
from davatar.tracking.correspondence import pair
from davatar.tracking.frame_fit import Problem, fit_frame
from davatar.tracking.joint import key_frames
from davatar.tracking.observation import NOISY
from davatar.tracking.passes import TRACKED, Passes, Row
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import LinearSettings
from davatar.tracking.start import choose_start
from davatar.tracking.surface import fit_surface
from davatar.tracking.variables import FrameState


@dataclass(frozen=True)
class LinearFit:
    identity: np.ndarray  # [100]
    rows: list[Row]  # one per chosen frame
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
    start, first, identity = _first_frame(problem, recording, results, progress)
    check()
    passes = Passes(recording, results, progress, check)
    rows = passes.track("track", problem, first, start, identity)
    scalp = settings.scalp == "yes" or (settings.scalp == "auto" and _is_bald(recording, rows, identity))
    if scalp:
        problem = replace(problem, surface=fit_surface(True))
    good = np.array([k for k, row in enumerate(rows) if row.tracked])
    keys = good[key_frames([rows[k].state for k in good], [rows[k].inliers for k in good], settings.key_frames)]
    rows, identity = passes.joint("keys", problem, rows, keys, identity, settings.key_rounds, temporal=False)
    rows = passes.refine("again", problem, rows, identity, settings.again_steps, settings.track_width)
    spread = good[np.unique(np.linspace(0, len(good) - 1, min(settings.joint_frames, len(good))).round().astype(int))]
    rows, identity = passes.joint("joint", problem, rows, spread, identity, settings.joint_rounds, temporal=True)
    settled = frozenset(int(k) for k in spread)
    rows = passes.refine("last", problem, rows, identity, settings.again_steps, 1.0, settled)
    return LinearFit(identity, rows, bool(recording.smooth), scalp, start)


def _first_frame(
    problem: Problem, recording: Recording, results: Results, progress: Progress
) -> tuple[int, Row, np.ndarray]:
    """Start row and its fit with all 159 unknowns; decides for the recording whether smoothed depth is fitted."""
    settings = problem.settings
    kept = results.get("first")
    if kept is not None:
        start, recording.smooth = int(kept["place"][0]), bool(kept["place"][1])
        return start, Row.of(kept), kept["identity"]
    start, found, noise = choose_start(recording, settings.scan, progress)
    recording.smooth = noise > NOISY if settings.smooth == "auto" else settings.smooth == "yes"
    fit = fit_frame(
        problem,
        recording.sample(start, found.center),
        FrameState(found.pose.rotation, found.pose.translation, problem.prior.mean.copy()),
        np.zeros(100),
        start_width=settings.first_width,
        steps=settings.first_steps,
        free_identity=True,
    )
    row = Row(fit.state, fit.inliers, fit.residual_mm, TRACKED, found.center)
    results.put("first", **row.arrays(), identity=fit.identity, place=np.array([start, recording.smooth]))
    return start, row, fit.identity


def _is_bald(recording: Recording, rows: list[Row], identity: np.ndarray) -> bool:
    """Whether depth over the scalp lies on the scalp: half of it within 5 mm (hair stands off farther)."""
    whole = fit_surface(True)
    scalp = np.isin(whole.vertices, whole.model.sets["scalp"])
    shape = whole.shape(identity)
    near, seen = 0, 0
    for k in np.unique(np.linspace(0, len(rows) - 1, min(5, len(rows))).round().astype(int)):
        sample = recording.sample(int(k), rows[k].cut) if rows[k].tracked else None
        if sample is None:
            continue
        state, posed = rows[k].state, whole.posed(shape, rows[k].state.expression)
        pairs = pair(sample.points, sample.normals, state.place(posed), whole.normals(posed) @ state.rotation.T)
        over = scalp[pairs.vertex]
        seen += int(over.sum())
        near += int((np.abs(pairs.residual[over]) < 0.005).sum())
    return seen >= 50 and near > 0.5 * seen
