"""What the face does: expression weights, gaze and head pose over time.

A script is made of named expressions that swell and fade, over which blinks, gaze and head motion run. Weights
are those of the head model (0..1, ARKit-like names); head pose is rigid, head frame to studio world, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from davatar.core.errors import DataError

# Named expressions; a name without _L/_R sets both sides.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "jaw_open": {"jawOpen": 0.75},
    "jaw_wide": {"jawOpen": 1.0, "browInnerUp": 0.4, "browOuterUp": 0.4},
    "smile": {"mouthSmile": 0.9, "cheekSquint": 0.5, "eyeSquint": 0.2},
    "smile_teeth": {"mouthSmile": 0.8, "cheekSquint": 0.6, "mouthUpperUp": 0.5, "mouthLowerDown": 0.35},
    "laugh": {"mouthSmile": 0.8, "cheekSquint": 0.7, "jawOpen": 0.45, "eyeSquint": 0.4, "mouthUpperUp": 0.3},
    "smile_left": {"mouthSmile_L": 0.95, "cheekSquint_L": 0.6, "mouthDimple_L": 0.4},
    "smile_right": {"mouthSmile_R": 0.95, "cheekSquint_R": 0.6, "mouthDimple_R": 0.4},
    "brows_up": {"browInnerUp": 0.95, "browOuterUp": 0.85, "eyeWide": 0.4},
    "brow_left": {"browOuterUp_L": 0.95, "browInnerUp_L": 0.5, "browDown_R": 0.3},
    "brow_right": {"browOuterUp_R": 0.95, "browInnerUp_R": 0.5, "browDown_L": 0.3},
    "surprise": {"browInnerUp": 0.8, "browOuterUp": 0.8, "eyeWide": 0.8, "jawOpen": 0.4},
    "frown": {"browDown": 0.9, "eyeSquint": 0.4},
    "angry": {"browDown": 0.9, "noseSneer": 0.5, "mouthPress": 0.5, "mouthFrown": 0.3},
    "snarl": {"noseSneer": 0.9, "mouthUpperUp": 0.6, "browDown": 0.5},
    "sad": {"browInnerUp": 0.8, "mouthFrown": 0.8, "mouthShrugLower": 0.5},
    "pucker": {"mouthPucker": 0.9},
    "funnel": {"mouthFunnel": 0.8, "jawOpen": 0.2},
    "puff": {"cheekPuff": 0.8, "mouthPress": 0.3},
    "press": {"mouthPress": 0.7, "mouthRollLower": 0.5, "mouthRollUpper": 0.4},
    "jaw_left": {"jawLeft": 0.8, "jawOpen": 0.1},
    "jaw_right": {"jawRight": 0.8, "jawOpen": 0.1},
    "mouth_left": {"mouthLeft": 0.7},
    "mouth_right": {"mouthRight": 0.7},
    "stretch": {"mouthStretch": 0.8, "mouthLowerDown": 0.6, "jawOpen": 0.15},
    "shrug": {"mouthShrugLower": 0.8, "mouthShrugUpper": 0.4},
    "squint": {"eyeSquint": 0.9, "cheekSquint": 0.4},
    "wink_left": {"eyeBlink_L": 1.0, "cheekSquint_L": 0.7, "mouthSmile_L": 0.3},
    "wink_right": {"eyeBlink_R": 1.0, "cheekSquint_R": 0.7, "mouthSmile_R": 0.3},
}
NECK = np.array([0.0, -0.09, -0.02])  # m, head frame: the head turns about this point
LOOK_FULL = (0.55, 0.45)  # rad of gaze at which the eyeLook weights reach 1, sideways and up/down


@dataclass(frozen=True)
class Event:
    name: str  # key of EXPRESSIONS
    center: float  # s
    half_width: float  # s
    strength: float = 1.0


@dataclass(frozen=True)
class ExpressionScript:
    weights: np.ndarray  # [T, 53] float32 0..1
    gaze: np.ndarray  # [T, 2] float64 rad: yaw to the subject's left, pitch upwards
    head_to_world: np.ndarray  # [T, 4, 4] float64 rigid, head frame to studio
    fps: float

    def __post_init__(self):
        t = len(self.weights)
        if t < 1:
            raise DataError("a script without frames", mend="ask for at least one frame")
        if self.gaze.shape != (t, 2) or self.head_to_world.shape != (t, 4, 4) or self.weights.ndim != 2:
            raise DataError(
                f"a script's arrays differ in length: weights {self.weights.shape}, gaze {self.gaze.shape}, "
                f"head_to_world {self.head_to_world.shape}"
            )
        if not all(np.isfinite(a).all() for a in (self.weights, self.gaze, self.head_to_world)):
            raise DataError("a script holds non-finite values")

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows: slice) -> ExpressionScript:
        return ExpressionScript(self.weights[rows], self.gaze[rows], self.head_to_world[rows], self.fps)

    @staticmethod
    def scripted(names: Sequence[str], frames: int, events: Sequence[Event], *, fps: float = 10.0, seed: int = 0,
                 motion: float = 1.0) -> ExpressionScript:  # fmt: skip
        """Given events, with blinks, gaze and head motion from `seed`.

        Args:
            names: [53] the model's expression names.
            motion: scale of the head's turning (1: about +-9, 14, 6 degrees in pitch, yaw, roll, +-1 cm).
        """
        rng = np.random.default_rng([seed, 11])
        time = np.arange(frames) / fps
        weights = np.zeros((frames, len(names)))
        for event in events:
            swell = np.clip(1 - np.abs(time - event.center) / event.half_width, 0, 1)
            swell = event.strength * (0.5 - 0.5 * np.cos(np.pi * swell))
            weights = np.maximum(weights, swell[:, None] * shape_weights(names, event.name))
        gaze = _gaze(rng, time)
        return ExpressionScript(_with_eyes(rng, weights, gaze, names, time), gaze, _pose(rng, time, motion), fps)

    @staticmethod
    def performance(names: Sequence[str], frames: int, seed: int, *, fps: float = 10.0, motion: float = 1.0,
                    only: Sequence[str] | None = None, pace: float = 1.2) -> ExpressionScript:  # fmt: skip
        """A random sequence of overlapping expressions that visits every chosen one before repeating.

        Args:
            only: names out of EXPRESSIONS; all if None.
            pace: s between the peaks of consecutive expressions.
        """
        rng = np.random.default_rng([seed, 12])
        chosen = list(EXPRESSIONS if only is None else only)
        order: list[str] = []
        events, at = [], 0.5 * pace
        while at < frames / fps + pace:
            order = order or [str(n) for n in rng.permutation(chosen)]
            events.append(Event(order.pop(), at, pace * rng.uniform(0.6, 1.0), rng.uniform(0.75, 1.0)))
            at += pace * rng.uniform(0.7, 1.2)
        return ExpressionScript.scripted(names, frames, events, fps=fps, seed=seed, motion=motion)

    @staticmethod
    def from_weights(weights: np.ndarray, names: Sequence[str], *, fps: float, seed: int = 0,
                     motion: float = 1.0) -> ExpressionScript:  # fmt: skip
        """Captured weights [T, 53] as they are; the gaze follows their eyeLook entries, the head moves by `seed`."""
        weights = np.clip(np.asarray(weights, np.float32), 0, 1)
        if weights.ndim != 2 or weights.shape[1] != len(names):
            raise DataError(f"weights have shape {weights.shape}, expected [T, {len(names)}]")
        at = {name: weights[:, k] for k, name in enumerate(names)}
        yaw = (at["eyeLookOut_L"] + at["eyeLookIn_R"] - at["eyeLookIn_L"] - at["eyeLookOut_R"]) / 2
        pitch = (at["eyeLookUp_L"] + at["eyeLookUp_R"] - at["eyeLookDown_L"] - at["eyeLookDown_R"]) / 2
        gaze = np.stack([yaw, pitch], axis=-1).astype(np.float64) * LOOK_FULL
        time = np.arange(len(weights)) / fps
        return ExpressionScript(weights, gaze, _pose(np.random.default_rng([seed, 11]), time, motion), fps)


def shape_weights(names: Sequence[str], expression: str) -> np.ndarray:
    """[53] weights of a named expression."""
    if expression not in EXPRESSIONS:
        raise DataError(f"no expression is called {expression!r}; there are {', '.join(EXPRESSIONS)}")
    out = np.zeros(len(names))
    for name, value in EXPRESSIONS[expression].items():
        out[[k for k, n in enumerate(names) if n in (name, f"{name}_L", f"{name}_R")]] = value
    return out


def head_pose(yaw: float, pitch: float, roll: float, shift: np.ndarray | None = None) -> np.ndarray:
    """[4, 4] head frame to studio: degrees about the neck (yaw to the subject's left, pitch upwards), shift in m."""
    rotation = Rotation.from_euler("YXZ", [yaw, -pitch, roll], degrees=True).as_matrix()
    out = np.eye(4)
    out[:3, :3] = rotation
    out[:3, 3] = NECK - rotation @ NECK + (0 if shift is None else shift)
    return out


def _pose(rng: np.random.Generator, time: np.ndarray, motion: float) -> np.ndarray:
    waves = [_wave(rng, time, 2.5, 6.0) for _ in range(6)]
    yaw, pitch, roll = 14 * waves[0], 9 * waves[1], 6 * waves[2]
    shift = 0.01 * np.stack(waves[3:], axis=-1)
    rows = zip(yaw, pitch, roll, shift, strict=True)
    return np.stack([head_pose(motion * y, motion * p, motion * r, motion * s) for y, p, r, s in rows])


def _wave(rng: np.random.Generator, time: np.ndarray, shortest: float, longest: float) -> np.ndarray:
    """Smooth wandering in -1..1."""
    periods, phases = rng.uniform(shortest, longest, 2), rng.uniform(0, 2 * np.pi, 2)
    return 0.6 * np.sin(2 * np.pi * time / periods[0] + phases[0]) + 0.4 * np.sin(4.1 * time / periods[1] + phases[1])


def _gaze(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Fixations of about a second, joined by quick turns."""
    out = np.empty((len(time), 2))
    start, here = 0.0, np.zeros(2)
    while start <= time[-1]:
        stop = start + rng.uniform(0.6, 1.6)
        there = rng.uniform([-0.38, -0.25], [0.38, 0.2]) * (rng.random() < 0.75)
        rows = (time >= start) & (time <= stop)
        t = np.clip((time[rows] - start) / 0.15, 0, 1)[:, None]
        out[rows] = here + t * t * (3 - 2 * t) * (there - here)
        start, here = stop, there
    return out


def _with_eyes(
    rng: np.random.Generator, weights: np.ndarray, gaze: np.ndarray, names: Sequence[str], time: np.ndarray
) -> np.ndarray:
    """Adds blinks, and lids that follow the gaze."""
    at = {name: k for k, name in enumerate(names)}
    side, up = gaze[:, 0] / LOOK_FULL[0], gaze[:, 1] / LOOK_FULL[1]
    for name, value in (
        ("eyeLookOut_L", side), ("eyeLookIn_R", side), ("eyeLookIn_L", -side), ("eyeLookOut_R", -side),
        ("eyeLookUp_L", up), ("eyeLookUp_R", up), ("eyeLookDown_L", -up), ("eyeLookDown_R", -up),
    ):  # fmt: skip
        weights[:, at[name]] = np.maximum(weights[:, at[name]], np.clip(value, 0, 1))
    blink = rng.uniform(0.4, 2.0)
    while blink < time[-1]:
        lid = np.clip(1.35 - np.abs(time - blink) / 0.14, 0, 1)
        for name in ("eyeBlink_L", "eyeBlink_R"):
            weights[:, at[name]] = np.maximum(weights[:, at[name]], lid)
        blink += rng.uniform(1.8, 4.0)
    for s in "LR":  # a closed lid cannot also be wide open
        weights[:, at[f"eyeWide_{s}"]] *= 1 - weights[:, at[f"eyeBlink_{s}"]]
        weights[:, at[f"eyeLookDown_{s}"]] *= 1 - weights[:, at[f"eyeBlink_{s}"]]
    return np.clip(weights, 0, 1).astype(np.float32)
