"""Creases that come and go with the expression, as functions of template coordinates (cm).

Each group is a set of lines in the frontal plane; a sample belongs to at most one group. `amounts` says how
strongly each group is drawn on each side of the face for given expression weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from davatar.capture.synthetic.noise import bump, smoothstep
from davatar.capture.synthetic.noise import smooth_noise as noise
from davatar.capture.synthetic.traits import Traits

GROUPS = ("forehead", "frown", "crow", "nasolabial", "nose", "chin", "lid")
DEPTH = 0.055  # cm at amount 1
DARK = 0.5  # log darkening in the crease at amount 1

# Which weights draw a group: name without side -> gain.
_DRIVERS = {
    "forehead": {"browInnerUp": 0.65, "browOuterUp": 0.6},
    "frown": {"browDown": 0.9, "noseSneer": 0.25},
    "crow": {"eyeSquint": 0.55, "cheekSquint": 0.6, "mouthSmile": 0.35, "eyeBlink": 0.12},
    "nasolabial": {"mouthSmile": 0.75, "noseSneer": 0.6, "mouthUpperUp": 0.35, "mouthStretch": 0.3, "mouthDimple": 0.3},
    "nose": {"noseSneer": 0.95, "browDown": 0.15},
    "chin": {"mouthShrugLower": 0.9, "mouthPress": 0.35, "mouthFrown": 0.4},
    "lid": {"eyeSquint": 0.6, "cheekSquint": 0.55, "mouthSmile": 0.25},
}
_RESTING = {"forehead": 0.25, "frown": 0.2, "crow": 0.2, "nasolabial": 0.4, "nose": 0.0, "chin": 0.0, "lid": 0.3}


def amounts(weights: np.ndarray, names: tuple[str, ...], age: float) -> np.ndarray:
    """[G, 2] strength of each group on the subject's right and left, 0..1.2, from weights [53]."""
    index = {name: k for k, name in enumerate(names)}
    out = np.empty((len(GROUPS), 2), np.float32)
    for g, group in enumerate(GROUPS):
        for side, letter in enumerate("RL"):
            drive = sum(
                gain * float(weights[index[f"{name}_{letter}" if f"{name}_{letter}" in index else name]])
                for name, gain in _DRIVERS[group].items()
            )
            out[g, side] = min(max(drive, 0) * (0.7 + 0.5 * age) + _RESTING[group] * age**1.5, 1.2)
    return out


def blush(weights: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """[2] how much blood the work of the muscles brings into the cheeks, right and left, 0..1."""
    index = {name: k for k, name in enumerate(names)}
    drive = {"mouthSmile": 0.7, "cheekSquint": 0.3, "cheekPuff": 0.6, "noseSneer": 0.3}
    return np.array([min(sum(g * weights[index[f"{n}_{s}"]] for n, g in drive.items()), 1) for s in "RL"], np.float32)


def creases(points: np.ndarray, traits: Traits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the paint needs to draw every group.

    Returns:
        group [S] int8, -1 = none; crease [S] 0..1, how deep inside a line; slope [S, 3] gradient of the height
        (cm per cm, template axes) at amount 1.
    """
    group = np.full(len(points), -1, np.int8)
    crease = np.zeros(len(points), np.float32)
    slope = np.zeros((len(points), 3), np.float32)
    step = np.float32(0.02)
    for g, name in enumerate(GROUPS):
        (x0, x1), (y0, y1), z0 = _BOX[name]
        x, y = np.abs(points[:, 0]), points[:, 1]
        near = np.nonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) & (points[:, 2] > z0) & (group < 0))[0]
        if not len(near):
            continue
        p = points[near]
        depth = _LINES[name](p, traits)
        used = depth > 0.01
        near, p, depth = near[used], p[used], depth[used]
        group[near], crease[near] = g, np.minimum(depth, 1)
        for axis in (0, 1):
            moved = p.copy()
            moved[:, axis] += step
            slope[near, axis] = -DEPTH * (_LINES[name](moved, traits) - depth) / step
    return group, crease, slope


def _forehead(p: np.ndarray, traits: Traits) -> np.ndarray:
    x, y = p[:, 0], p[:, 1]
    wave = 0.10 * noise(p * np.float32([1, 0.2, 0.3]), 0.6, traits.offset + 100)
    level = (y - 7.15 + 0.018 * x * x + wave) / 0.68
    line = np.round(level)
    reach = smoothstep(4.6, 2.6, np.abs(x) + 0.4 * noise(np.stack([line, line, line], -1), 0.9, traits.offset + 101))
    fade = 0.65 + 0.35 * np.clip(noise(p * np.float32([1, 0, 0]) + line[:, None] * 3, 0.5, traits.offset + 102), -1, 1)
    return bump((level - line) * 0.68, 0.105) * reach * fade * ((line >= 0) & (line <= 4)) * smoothstep(6.5, 7.0, y)


def _frown(p: np.ndarray, traits: Traits) -> np.ndarray:
    x, y = np.abs(p[:, 0]), p[:, 1]
    place = 0.62 + 0.12 * (y - 6) + 0.05 * noise(p, 0.8, traits.offset + 103)
    middle = 0.5 * bump(x, 0.09) * smoothstep(5.2, 5.9, y) * smoothstep(7.2, 6.4, y)
    return bump(x - place, 0.10) * smoothstep(4.7, 5.5, y) * smoothstep(7.7, 6.6, y) + middle


def _crow(p: np.ndarray, traits: Traits) -> np.ndarray:
    x, y = np.abs(p[:, 0]) - 4.5, p[:, 1] - 3.35
    radius = np.hypot(x, y)
    angle = np.arctan2(y, np.maximum(x, 1e-3)) + 0.08 * noise(p, 0.8, traits.offset + 104)
    ray = np.round(angle / 0.38)
    off = (angle / 0.38 - ray) * 0.38 * radius
    return bump(off, 0.07) * smoothstep(0.25, 0.7, radius) * smoothstep(2.1, 1.1, radius) * (np.abs(ray) <= 2)


def _nasolabial(p: np.ndarray, traits: Traits) -> np.ndarray:
    x, y = np.abs(p[:, 0]), p[:, 1]
    place = np.interp(y, [-5.0, -3.6, -2.2, -0.9, 0.2], [3.55, 3.35, 2.75, 2.0, 1.6])
    place = place + 0.05 * noise(p, 0.6, traits.offset + 105)
    return bump(x - place, 0.15) * smoothstep(-5.0, -3.9, y) * smoothstep(0.2, -0.5, y)


def _nose(p: np.ndarray, traits: Traits) -> np.ndarray:
    x, y = np.abs(p[:, 0]), p[:, 1]
    level = (y - 2.9 + 0.35 * x) / 0.42
    line = np.round(level)
    return bump((level - line) * 0.42, 0.075) * smoothstep(1.35, 0.7, x) * ((line >= 0) & (line <= 3))


def _chin(p: np.ndarray, traits: Traits) -> np.ndarray:
    pebbles = np.clip(0.5 + 0.5 * noise(p, 2.2, traits.offset + 106), 0, 1)
    return pebbles * bump(p[:, 0], 1.4) * bump(p[:, 1] + 6.3, 0.75)


def _lid(p: np.ndarray, traits: Traits) -> np.ndarray:
    x, y = np.abs(p[:, 0]), p[:, 1]
    arc = np.square(x - 3.1) * 0.12
    first, second = bump(y - (2.45 + arc), 0.07), 0.7 * bump(y - (2.05 + 0.9 * arc), 0.07)
    return (first + second) * smoothstep(1.5, 2.2, x) * smoothstep(4.4, 3.8, x)


_LINES: dict[str, Callable[[np.ndarray, Traits], np.ndarray]] = {
    "forehead": _forehead,
    "frown": _frown,
    "crow": _crow,
    "nasolabial": _nasolabial,
    "nose": _nose,
    "chin": _chin,
    "lid": _lid,
}
_BOX = {  # |x| range, y range, smallest z: where a group can be, cm
    "forehead": ((0, 5.2), (6.4, 10.4), 4.0),
    "frown": ((0, 1.4), (4.6, 7.8), 7.0),
    "crow": ((4.5, 7.2), (1.6, 5.4), 4.0),
    "nasolabial": ((1.2, 4.2), (-5.2, 0.4), 6.0),
    "nose": ((0, 1.4), (2.5, 4.5), 8.0),
    "chin": ((0, 2.6), (-8.0, -4.9), 7.0),
    "lid": ((1.4, 4.5), (1.6, 2.85), 6.0),
}
