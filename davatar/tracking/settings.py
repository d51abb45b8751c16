"""Every number of the tracker with its meaning; presets are tables of these (assets/presets/tracking)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LinearSettings:
    """The fit of the linear head model. Lengths in mm where a name ends in _mm."""

    points: int = 2500  # depth points per frame and step
    effective_points: int = 1500  # as many independent measurements they count for (neighbours are correlated)
    kernel: float = 3.0  # width of the robust kernel at its narrowest, in sigmas
    first_width: float = 6.0  # kernel starts this many times wider on the first frame ...
    track_width: float = 3.0  # ... and on tracked frames
    narrowing: float = 0.6  # factor per step
    first_steps: int = 16
    track_steps: int = 6
    again_steps: int = 3  # when every frame is visited again with a better identity
    cut_mm: float = 20.0  # pairs farther apart (point to plane) do not count
    prior_floor: float = 0.04  # standard deviation added to the captured expressions' covariance
    change: float = 0.35  # standard deviation of an expression weight's change between frames
    key_frames: int = 8
    key_rounds: int = 8
    joint_frames: int = 40  # frames of the last joint fit, spread over the sequence
    joint_rounds: int = 5
    scan: int = 8  # frames tried as the first one
    smooth: Literal["auto", "yes", "no"] = "auto"  # fit smoothed depth: by the noise rule, always, never
    scalp: Literal["auto", "yes", "no"] = "auto"  # fit the scalp: only where it is bald, always, never
    lost: float = 0.8  # try a fresh start when the mean robust weight falls below this share of its running median


@dataclass(frozen=True)
class TrackSettings:
    stage: Literal["linear", "neural"] = "neural"  # how far to go
    seed: int = 0
    linear: LinearSettings = field(default_factory=LinearSettings)
