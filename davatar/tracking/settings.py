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
class Stage:
    """One stage of the neural fit, as data: what moves, on which frames, by which energies, how long."""

    name: str = "incremental"
    solver: Literal["gauss_newton", "adam"] = "gauss_newton"
    frames: Literal["start", "keys", "each", "pairs", "spread"] = "each"
    """start: the first frame; keys: key frames together; each: one after another; pairs: neighbours, in random
    order, `iterations` times; spread: up to `joint_frames` frames together"""
    moves: tuple[Literal["identity", "expression", "pose", "scale"], ...] = ("expression", "pose")
    iterations: int = 3
    points: int = 1500  # depth points per frame and step
    weights: dict[str, float] = field(default_factory=dict)  # energy -> weight; only these are evaluated
    width: float = 1.0  # Gauss-Newton: kernel starts this many times wider than `kernel`
    rates: dict[str, float] = field(default_factory=dict)  # Adam: variable -> learning rate
    drops: tuple[int, ...] = ()  # Adam: iterations at which every rate is divided by 10
    cuts: tuple[tuple[int, float], ...] = ()  # Adam: (iteration, head-model units): |sdf| counted from there on


@dataclass(frozen=True)
class NeuralSettings:
    """The fit of the head model's codes."""

    stages: tuple[Stage, ...] = ()
    effective_points: int = 900  # as many independent measurements the points of a frame count for
    kernel: float = 3.0  # width of the robust kernel, in sigmas
    cut_mm: float = 8.0  # farther points do not count; also how far from the linear surface a used point may lie
    hidden_mm: float = 6.0  # skin with no used point this near is hidden: energy reg_hidden holds it to the linear fit
    model_error_mm: float = 0.4  # what the head model itself misses, added to the depth error in quadrature
    prior_floor: float = 0.04  # as in the linear fit
    change: float = 0.35  # as in the linear fit
    key_frames: int = 8
    joint_frames: int = 40
    identity_prior: str = "open-identity"  # diffusion priors: shipped name, file or published folder
    expression_prior: str = "open-expression"
    noise_levels: tuple[float, float] = (0.4, 0.6)  # range of t/T at which the priors are asked
    draws: int = 4  # noises the pull of a prior is averaged over


@dataclass(frozen=True)
class OutputSettings:
    meshes: bool = True
    mesh_resolution: int = 96  # samples per axis of the box around the head; 96 is 3 to 3.5 mm, 128 costs twice as much
    overlay: bool = True
    overlay_height: int = 540


@dataclass(frozen=True)
class TrackSettings:
    stage: Literal["linear", "neural"] = "neural"  # how far to go
    seed: int = 0
    linear: LinearSettings = field(default_factory=LinearSettings)
    neural: NeuralSettings = field(default_factory=NeuralSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
