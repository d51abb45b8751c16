"""Rotations as matrices outside, so(3) increments (radians, world axes) in the solver: R <- exp([w]) R."""

from __future__ import annotations

import numpy as np


def cross_matrix(w: np.ndarray) -> np.ndarray:
    """[..., 3] -> [..., 3, 3] with cross_matrix(w) @ v = w x v."""
    x, y, z = np.moveaxis(np.asarray(w, np.float64), -1, 0)
    zero = np.zeros_like(x)
    rows = [np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return np.stack(rows, -2)


def exp(w: np.ndarray) -> np.ndarray:
    """[..., 3] rotation vector -> [..., 3, 3] rotation matrix (Rodrigues; series near zero)."""
    w = np.asarray(w, np.float64)
    angle2 = (w * w).sum(-1)[..., None, None]
    angle = np.sqrt(angle2)
    small = angle2 < 1e-8
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1 - angle2 / 6, np.sin(safe) / safe)
    second = np.where(small, 0.5 - angle2 / 24, (1 - np.cos(safe)) / safe**2)
    skew = cross_matrix(w)
    return np.eye(3) + first * skew + second * (skew @ skew)


def angle(rotation: np.ndarray) -> np.ndarray:
    """[..., 3, 3] -> [...] angle of the rotation, radians."""
    trace = np.trace(rotation, axis1=-2, axis2=-1)
    off = rotation - np.swapaxes(rotation, -1, -2)
    sine = 0.5 * np.sqrt(off[..., 2, 1] ** 2 + off[..., 0, 2] ** 2 + off[..., 1, 0] ** 2)
    return np.arctan2(sine, (trace - 1) / 2)


def orthonormal(rotation: np.ndarray) -> np.ndarray:
    """The rotation nearest to a matrix [..., 3, 3] (products drift after thousands of steps)."""
    u, _, v = np.linalg.svd(rotation)
    u[..., :, 2] *= np.linalg.det(u @ v)[..., None]
    return u @ v


def facing_camera(yaw: float, pitch: float) -> np.ndarray:
    """[3, 3]: a head that faces an OpenCV camera, then turned by yaw and pitch (radians) about its own axes."""
    facing = np.diag([1.0, -1.0, -1.0])
    return facing @ exp(np.array([0, yaw, 0])) @ exp(np.array([pitch, 0, 0]))
