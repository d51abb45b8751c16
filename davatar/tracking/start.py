"""Where a track begins: the frame in which the head is surest, never one in which it is covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.capture.frame import Frame
from davatar.core.errors import DataError
from davatar.core.progress import Progress, silent
from davatar.tracking.observation import observe
from davatar.tracking.pose import GOOD, REFUSE, PoseGuess, estimate_pose
from davatar.tracking.recording import Recording
from davatar.tracking.segmentation import find_heads

RIVAL = 0.8  # a second head candidate competes only with this share of the best one's score
SURE = 0.42  # a pose score that ends the search


@dataclass(frozen=True)
class Found:
    pose: PoseGuess
    center: np.ndarray  # [3] m, camera axes: the voted head centre
    noise: float  # m, robust sigma of (raw - smoothed) in the head region


def find_head(frame: Frame, seed: int = 0) -> Found | None:
    """Head and pose in one frame, from nothing but its depth (and landmarks, if it has them)."""
    candidates = find_heads(frame.depth, frame.camera)
    best = None
    for candidate in candidates[:2]:
        if candidate.score < RIVAL * candidates[0].score:
            continue
        observation = observe(frame, candidate.center)
        guess = estimate_pose(observation, candidate.center, lifted_landmarks(frame), seed)
        if best is None or guess.score < best.pose.score:
            best = Found(guess, candidate.center, observation.noise)
    return best if best is not None and np.isfinite(best.pose.score) else None


def lifted_landmarks(frame: Frame) -> np.ndarray | None:
    """[68, 3] m, camera axes, NaN where there is no depth; None without landmarks."""
    if frame.landmarks is None:
        return None
    if frame.landmarks.shape[1] == 3:
        return frame.landmarks
    height, width = frame.depth.shape
    out = np.full((len(frame.landmarks), 3), np.nan)
    for k, (u, v) in enumerate(frame.landmarks):
        if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
            continue
        row, column = int(round(v)), int(round(u))
        window = frame.depth[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if np.isfinite(window).any():
            out[k] = np.linalg.inv(frame.camera.K) @ [u, v, 1] * np.nanmedian(window)
    return out


def choose_start(recording: Recording, tries: int, progress: Progress = silent) -> tuple[int, Found, float]:
    """The best scored of a few frames spread over the recording; more are tried only if none of those is good.

    Returns:
        row, what was found there, median noise over the tried frames in m.

    Raises:
        DataError: no frame can be read, or none holds a head.
    """
    spread = np.unique(np.linspace(0, len(recording) - 1, min(tries, len(recording))).round().astype(int))
    rest = np.setdiff1d(np.arange(len(recording)), spread)
    found: dict[int, Found] = {}
    with progress.task("looking for the head", len(spread)) as task:
        for row in [*spread, *rest]:
            best = min((entry.pose.score for entry in found.values()), default=np.inf)
            if best < SURE or (row in rest and best < GOOD):
                break
            frame = recording.frame(int(row))
            here = None if frame is None else find_head(frame, recording.seed)
            if here is not None:
                found[int(row)] = here
            task.advance()
    name = getattr(recording.capture, "name", "the recording")
    if len(recording.unreadable) == len(recording):
        reason = next(iter(recording.unreadable.values()))
        raise DataError(f"none of the {len(recording)} frames can be used; the first: {reason}", file=name)
    if not found or min(entry.pose.score for entry in found.values()) > REFUSE:
        raise DataError(
            f"no head found in any of the {len(recording)} frames",
            file=name,
            mend="the head must be 0.15 to 1.6 m from the camera, upright and for the most part uncovered; "
            "check depth_scale in meta.json",
        )
    row = min(found, key=lambda key: found[key].pose.score)
    return row, found[row], float(np.median([entry.noise for entry in found.values()]))
