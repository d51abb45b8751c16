"""Eyeballs: they really turn with the gaze, and are coloured by the angle from their own axis.

Template centimetres, linear RGB. Gaze is (yaw, pitch) in radians in the head frame: yaw > 0 to the subject's
left (+x), pitch > 0 upwards; both eyes look in parallel.
"""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from davatar.capture.synthetic.noise import bump, noise, smoothstep
from davatar.capture.synthetic.template import CM, EYE_LEFT, EYE_RIGHT, SKIN, Eye, Template
from davatar.capture.synthetic.traits import Traits

CORNEA = 0.4  # share of the modelled bulge that is kept
CORNEA_RADIUS = 0.85  # cm
CLEARANCE = 0.0003  # m between eyeball and closed lid


def gaze_rotation(gaze: np.ndarray) -> np.ndarray:
    """[3, 3] turn of the eyeballs, head frame."""
    (sy, sp), (cy, cp) = np.sin(gaze), np.cos(gaze)
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]).T


def eye_center(template: Template, eye: Eye, vertices: np.ndarray) -> np.ndarray:
    """[3] m, where the eyeball's centre is when the head's vertices [V, 3] m are these."""
    offset = (eye.center - template.points[eye.vertices].mean(axis=0)) / np.float32(CM)
    return vertices[eye.vertices].mean(axis=0) + offset


def fit_eyes(template: Template, neutral: np.ndarray) -> None:
    """Makes the eyeballs of a neutral head [V, 3] m (changed in place) fit under its lids.

    The linear model places some eyeballs so far in front that closed lids would run through them. The cornea's
    bulge is flattened to CORNEA of its height, since it turns with the gaze, and the ball moves back until the
    closed lids clear it.
    """
    names, expression = list(template.model.expression_names), template.model.expression
    for eye, side in zip(template.eyes, "LR", strict=True):
        center = eye_center(template, eye, neutral)
        arm = neutral[eye.vertices] - center
        length = np.linalg.norm(arm, axis=1, keepdims=True)
        ball = np.median(length)
        flat = np.where(length > ball, ball + CORNEA * (length - ball), length)
        neutral[eye.vertices] = center + arm / length * flat
        closed = neutral + expression[names.index(f"eyeBlink_{side}")]
        lid = _front(closed, template.triangles[template.part == SKIN], center)
        front = _front(neutral, template.triangles[template.part == (EYE_LEFT if side == "L" else EYE_RIGHT)], center)
        through = (front - lid)[np.isfinite(front) & np.isfinite(lid)]
        if len(through):
            neutral[eye.vertices, 2] -= np.clip(np.percentile(through, 98) + CLEARANCE, 0, 0.004)


def _front(vertices: np.ndarray, triangles: np.ndarray, center: np.ndarray) -> np.ndarray:
    """[N] z, m, of the foremost surface on a grid of lines through the eye's opening; infinite where there is none."""
    scene = EmbreeScene(robust=True)
    near = np.linalg.norm(vertices[triangles[:, 0]] - center, axis=1) < 0.035
    TriangleMesh(scene, (vertices - center).astype(np.float32), np.ascontiguousarray(triangles[near]))
    x, y = np.meshgrid(np.linspace(-0.010, 0.010, 33), np.linspace(-0.006, 0.006, 21))
    origin = np.stack([x.ravel(), y.ravel(), np.full(x.size, 0.1)], axis=-1).astype(np.float32)
    hit = scene.run(origin, np.tile(np.float32([0, 0, -1]), (x.size, 1)), output=True)
    return np.where(hit["primID"] >= 0, 0.1 - hit["tfar"], np.inf)


def paint_eye(points: np.ndarray, eye: Eye, traits: Traits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour of points on the unturned template eyeball.

    Args:
        points: [N, 3] cm, template.

    Returns:
        albedo [N, 3], wet [N] strength of the sharp highlight, tilt [N, 3] what the cornea, which is rounder than
        the ball, adds to the unit normal (template axes).
    """
    arm = points - eye.center
    ahead = arm @ eye.axis
    flat = arm - ahead[:, None] * eye.axis
    radius = np.linalg.norm(flat, axis=1)
    turn = np.arctan2(flat[:, 1], flat[:, 0])
    veins = noise(points * np.float32([1.0, 2.5, 1.0]), 2.2, traits.offset + 110)
    side = smoothstep(0.6, 1.4, radius)
    sclera = np.float32([0.70, 0.66, 0.63]) * np.exp(-side[:, None] * np.float32([0.12, 0.38, 0.40]))
    sclera = sclera * np.exp(-0.35 * bump(veins, 0.16)[:, None] * side[:, None] * np.float32([0.1, 1.0, 1.0]))

    ring = np.stack([2.2 * np.cos(turn), 2.2 * np.sin(turn), 0.8 * radius], axis=-1).astype(np.float32)
    rays = noise(ring, 2.6, traits.offset + 111) + 0.6 * noise(ring, 6.0, traits.offset + 112)
    r, pupil = traits.iris_radius, traits.pupil_radius
    depth = np.clip((radius - pupil) / (r - pupil), 0, 1)
    glow = 0.8 + 0.30 * rays + 0.5 * bump(depth - 0.18, 0.16) - 0.25 * depth
    iris = traits.iris * np.maximum(glow, 0.15)[:, None]
    iris = iris * (1 + bump(depth - 0.1, 0.2)[:, None] * np.float32([0.35, 0.12, -0.15]))
    iris = iris * (1 - 0.8 * smoothstep(0.80, 1.0, depth))[:, None]  # the dark ring at its border
    iris = iris * smoothstep(pupil - 0.02, pupil + 0.03, radius)[:, None] + np.float32(0.004)
    inside = smoothstep(r + 0.035, r - 0.035, radius) * (ahead > 0)
    albedo = (sclera + inside[:, None] * (iris - sclera)).astype(np.float32)
    tilt = flat * (inside * np.float32(1 / CORNEA_RADIUS - 1 / eye.radius))[:, None]
    return albedo, (0.7 + 0.3 * inside).astype(np.float32), tilt.astype(np.float32)
