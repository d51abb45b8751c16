"""Skin colour and relief as functions of template coordinates (cm; linear RGB albedo).

Everything a face carries besides hair: uneven tone, flush, shadows under the eyes, freckles, moles, lips,
lid margins and make-up. Hair is in `hair`, creases in `wrinkles`, eyeballs in `eyes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from davatar.capture.synthetic.noise import bump, fractal, noise, smoothstep
from davatar.capture.synthetic.template import (
    GUMS,
    LIP_MAP_LOW,
    LIP_MAP_STEP,
    MOUTH,
    SKIN,
    SOCKET,
    TEETH,
    Samples,
    Template,
)
from davatar.capture.synthetic.traits import Traits

PORES = 0.0024  # cm, height of the finest relief


def paint_skin(
    samples: Samples, template: Template, traits: Traits, moles: list[Mole]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour and finish of surface samples.

    Returns:
        albedo [S, 3], gloss [S] (strength of the highlight), flush [S] (where blood shows when the face works).
    """
    p = samples.points
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    front = smoothstep(1.0, 5.0, z)
    albedo = np.broadcast_to(traits.skin, p.shape).astype(np.float32)
    tone = fractal(p, (0.35, 1.3, 4.0), traits.offset) * np.float32(0.05 * traits.blotch)
    albedo = albedo * np.exp(tone[:, None] * np.array([0.7, 1.0, 1.1], np.float32))
    red = noise(p, 0.5, traits.offset + 5) * np.float32(0.06 * traits.blotch)
    albedo *= np.exp(red[:, None] * np.array([0.25, -0.8, -0.6], np.float32))

    cheeks = bump(x - 4.3, 1.9) * bump(y + 0.2, 1.8) * front
    nose = bump(x, 1.5) * bump(y - 0.4, 1.1) * smoothstep(10.2, 12.0, z)
    chin = bump(x, 1.6) * bump(y + 6.4, 0.9) * front
    flush = cheeks + 0.9 * nose + 0.5 * chin + 0.8 * samples.ear
    _tint(albedo, 0.5 * traits.flush * flush * (1 + 0.25 * noise(p, 1.1, traits.offset + 9)), (0.10, -0.42, -0.36))
    tired = bump(x - 3.0, 1.3) * bump(y - 2.35, 0.5) * front
    _tint(albedo, tired * (0.5 + 0.5 * traits.age), (-0.22, -0.34, -0.16))
    _tint(albedo, bump(x - 3.2, 1.5) * bump(y - 4.5, 0.6) * front, (-0.02, -0.12, -0.08))
    _freckle(albedo, p, traits, cheeks + nose + 0.35 * front * bump(y - 3, 6))
    _draw_moles(albedo, p, moles)

    contour = lip_distance(template, p)
    ragged = contour + 0.025 * noise(p, 3.0, traits.offset + 31)
    lips = smoothstep(0.07, -0.07, ragged) * smoothstep(8.5, 9.5, z)
    folds = noise(p * np.float32([1, 0.12, 0.3]), 5.0, traits.offset + 3)
    lip_color = traits.lips * np.exp(0.11 * folds[:, None] + 0.05 * noise(p, 1.5, traits.offset + 4)[:, None])
    _mix(albedo, lips, lip_color * np.float32(0.85) ** smoothstep(-0.05, 0.1, contour)[:, None])
    _tint(albedo, bump(contour - 0.16, 0.12) * front, (0.07, 0.06, 0.05))  # the light rim around the red of the lips

    lash = samples.lash
    upper = smoothstep(2.9, 3.7, y)
    line = smoothstep(0.13 + 0.07 * traits.makeup, 0.04, lash) * (0.3 + 0.7 * upper)
    shadow = traits.makeup * bump(lash - 0.25, 0.35) * upper * smoothstep(0.9, 0.3, lash)
    _tint(albedo, shadow, (-0.5, -0.75, -0.55))
    _mix(albedo, (0.6 + 0.35 * traits.makeup) * line, np.float32([0.03, 0.022, 0.02]))
    _mix(albedo, 0.6 * bump(lash, 0.08) * (1 - upper), np.float32([0.45, 0.2, 0.17]))

    gloss = np.full(len(p), 0.55, np.float32) + 0.5 * nose + 0.35 * bump(x, 2.6) * bump(y - 8, 2) * front
    gloss *= np.float32(traits.oil) * (1 + 0.25 * noise(p, 2.0, traits.offset + 12))
    gloss = gloss + lips * np.float32(2.2 * traits.lip_gloss)
    _inside(albedo, gloss, samples, traits)
    return albedo, gloss, (cheeks + 0.6 * nose) * (samples.part == SKIN)


def relief(points: np.ndarray, traits: Traits) -> np.ndarray:
    """[S] height of the skin's fine grain, cm."""
    pores = noise(points, 8.0, traits.offset + 21) + 1.6 * noise(points, 3.2, traits.offset + 23)
    return np.float32(PORES * (0.7 + 0.6 * traits.age)) * pores


def lip_distance(template: Template, points: np.ndarray) -> np.ndarray:
    """[S] distance to the contour of the lips in the frontal plane, cm, negative inside; 9 far away."""
    out = np.full(len(points), 9, np.float32)
    near = np.nonzero((points[:, 2] > 7) & (np.abs(points[:, 1] + 3.5) < 2.5) & (np.abs(points[:, 0]) < 4))[0]
    where = ((points[near, :2] - LIP_MAP_LOW) / LIP_MAP_STEP).T
    out[near] = map_coordinates(template.lip_map, where, order=1, mode="nearest", output=np.float32)
    return out


def _mix(albedo: np.ndarray, amount: np.ndarray, color: np.ndarray) -> None:
    albedo += np.clip(amount, 0, 1)[:, None].astype(np.float32) * (color - albedo)


def _tint(albedo: np.ndarray, amount: np.ndarray, shift: tuple[float, float, float]) -> None:
    """Multiplies by exp(amount * shift): keeps colours positive whatever adds up."""
    albedo *= np.exp(amount[:, None].astype(np.float32) * np.float32(shift))


def _freckle(albedo: np.ndarray, p: np.ndarray, traits: Traits, where: np.ndarray) -> None:
    if traits.freckles:
        spots = smoothstep(1.25, 2.0, noise(p, 3.2, traits.offset + 40) + 0.5 * noise(p, 0.8, traits.offset + 41))
        _tint(albedo, traits.freckles * spots * np.clip(where, 0, 1), (-0.28, -0.5, -0.6))


@dataclass(frozen=True)
class Mole:
    center: np.ndarray  # [3] cm
    radius: float  # cm
    strength: float


def place_moles(samples: Samples, traits: Traits, rng: np.random.Generator) -> list[Mole]:
    """Anywhere on the front of face and neck."""
    p = samples.points
    front = np.nonzero((samples.part == SKIN) & (p[:, 2] > 3) & (p[:, 1] > -9) & (p[:, 1] < 9))[0]
    chosen = p[rng.choice(front, traits.moles)]
    return [Mole(center, rng.uniform(0.06, 0.15), rng.uniform(0.5, 1.0)) for center in chosen]


def _draw_moles(albedo: np.ndarray, p: np.ndarray, moles: list[Mole]) -> None:
    for mole in moles:
        near = np.nonzero(np.abs(p - mole.center).max(axis=1) < 0.4)[0]
        spot = smoothstep(1.3, 0.6, np.linalg.norm(p[near] - mole.center, axis=1) / mole.radius)
        tinted = albedo[near]
        _tint(tinted, spot * mole.strength, (-0.9, -1.4, -1.5))
        albedo[near] = tinted


def _inside(albedo: np.ndarray, gloss: np.ndarray, samples: Samples, traits: Traits) -> None:
    """Mouth, gums, teeth and the walls of the eye sockets."""
    if (samples.part == SKIN).all():
        return
    grain = noise(samples.points, 2.0, traits.offset + 50)[:, None]
    behind = smoothstep(11.0, 9.8, samples.points[:, 2])[:, None]
    mucosa = traits.lips * (1 - behind) + np.float32([0.30, 0.075, 0.06]) * behind
    for part, color, shine in (
        (MOUTH, mucosa * (1 + 0.1 * grain), 0.7),
        (GUMS, np.float32([0.42, 0.13, 0.12]) * (1 + 0.15 * grain), 1.2),
        (TEETH, np.float32([0.74, 0.68, 0.56]) * (1 + 0.04 * grain), 1.5),
        (SOCKET, np.float32([0.40, 0.16, 0.13]) * (1 + 0.1 * grain), 0.6),
    ):
        rows = samples.part == part
        albedo[rows], gloss[rows] = color[rows], shine
