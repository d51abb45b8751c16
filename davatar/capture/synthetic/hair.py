"""Hair on template coordinates (cm): the cap on the scalp, brows and beard.

Hair is a thickness by which the head surface is pushed outward, a cover (how much skin it hides), a streaky
colour and a streaky relief. Strands run from the whorl over the head; streaks are noise stretched along them,
which also makes the hair line ragged in the right direction.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial import cKDTree

from davatar.capture.synthetic.noise import bump, noise, smooth_noise, smoothstep
from davatar.capture.synthetic.skin import lip_distance
from davatar.capture.synthetic.template import Template
from davatar.capture.synthetic.traits import Traits

SHAVED = 0.35  # cm of hair volume below which the skin shows between the stumps

# Height of the hair line (template y, cm) by angle from the front, degrees, around the head's vertical axis.
_LINE = PchipInterpolator([0, 22, 40, 52, 62, 70, 76, 84, 96, 112, 130, 155, 180],
                          [10.6, 10.5, 9.7, 7.6, 5.2, 2.2, 1.6, 4.2, 4.6, 2.0, -1.0, -3.8, -4.6])  # fmt: skip


def hairline(points: np.ndarray, traits: Traits) -> np.ndarray:
    """[S] height above the hair line, cm; positive on the scalp."""
    angle = np.degrees(np.arctan2(np.abs(points[:, 0]), points[:, 2] - 0.8))
    line = _LINE(angle) + traits.hairline * smoothstep(80, 30, angle)
    line = line + 0.25 * smooth_noise(points, 0.45, traits.offset + 60)
    steep = smoothstep(60, 76, angle) * smoothstep(92, 84, angle)  # the side burn's front edge runs downwards
    return ((points[:, 1] - line) * (1 - 0.45 * steep)).astype(np.float32)


def streaks(points: np.ndarray, traits: Traits, per_cm: float) -> np.ndarray:
    """[S] noise that is long along the strands: they leave the whorl and run down all sides."""
    whorl = np.array([1.2 * traits.hair_part, 12.5, -5.0])
    center = np.array([0.0, 3.5, 0.0])
    axis = (whorl - center) / np.linalg.norm(whorl - center)
    side = np.cross([0, 0, 1.0], axis)
    side /= np.linalg.norm(side)
    frame = np.stack([axis, side, np.cross(axis, side)]).astype(np.float32)
    along, a, b = frame @ (points - center.astype(np.float32)).T
    ring = np.sqrt(a * a + b * b) + np.float32(1e-6)
    bend = 0.10 * smooth_noise(points, 0.35, traits.offset + 71)
    cosine, sine = (a - b * bend) / ring, (b + a * bend) / ring  # the direction around the whorl, bent a little
    polar = np.arctan2(ring, along)
    place = np.stack([9.0 * cosine, 9.0 * sine, 1.4 * polar], axis=-1).astype(np.float32)
    return noise(place, per_cm, traits.offset + 70)


def scalp_cover(points: np.ndarray, ear: np.ndarray, traits: Traits) -> np.ndarray:
    """[S] 0..1: share of the skin hidden by the hair of the head; ragged along the strands."""
    h = hairline(points, traits)
    edge = np.nonzero(np.abs(h) < 1.6)[0]
    q = points[edge]
    ragged = h.copy()
    ragged[edge] += traits.hair_fringe * (0.45 * streaks(q, traits, 3.0) + 0.35 * streaks(q, traits, 0.9))
    if traits.hair_volume < SHAVED:  # stumps with skin between them and a soft border
        stumps = 0.55 + 0.11 * noise(points, 7.0, traits.offset + 65)
        cover = np.clip(stumps, 0.1, 0.9) * smoothstep(-0.7, 1.3, ragged)
    else:
        cover = smoothstep(-0.25, 0.35, ragged)
    return (cover * (1 - smoothstep(0.2, 0.6, ear))).astype(np.float32)


def beard_cover(points: np.ndarray, template: Template, traits: Traits) -> np.ndarray:
    """[S] 0..1: share of the skin hidden by the beard."""
    out = np.zeros(len(points), np.float32)
    if traits.beard != "none":
        near = np.nonzero((points[:, 1] < 3) & (points[:, 1] > -10) & (points[:, 2] > 1.5))[0]
        out[near] = _beard_area(points[near], template, traits)
    return out


def _beard_area(points: np.ndarray, template: Template, traits: Traits) -> np.ndarray:
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    wobble = 0.3 * smooth_noise(points, 0.7, traits.offset + 80)
    lip = lip_distance(template, points)
    bare = smoothstep(0.02, 0.32, lip)
    above = bump(x - 1.5, 1.7) * smoothstep(0.05, 0.3, lip) * smoothstep(1.15, 0.65, lip) * smoothstep(-3.7, -3.1, y)
    above = above * smoothstep(9.0, 10.0, z)
    if traits.beard == "moustache":
        return above * bare
    if traits.beard == "goatee":
        chin = smoothstep(2.3, 1.5, x + wobble) * smoothstep(-4.4, -5.0, y) * smoothstep(-8.6, -7.8, y)
        beside = bump(x - 2.9, 0.5) * smoothstep(-3.2, -3.8, y) * smoothstep(-6.4, -5.6, y) * smoothstep(7, 9, z)
        return np.maximum(np.maximum(above, chin), beside) * bare
    cheek = np.interp(x, [0, 2.4, 3.4, 5.0, 6.4, 7.4], [-2.0, -2.2, -3.0, -2.6, 0.0, 1.8])
    whole = smoothstep(0.5, -0.5, y - cheek - wobble) * smoothstep(-9.6, -8.2, y + wobble) * smoothstep(2.2, 4.2, z)
    return np.maximum(whole, above) * bare


def beard_strands(points: np.ndarray, traits: Traits, per_cm: float) -> np.ndarray:
    """[S] noise stretched downwards and outwards from the mouth."""
    comb = points * np.float32([1.0, 0.3, 0.6]) + np.float32([0, 0, 0.25]) * np.abs(points[:, :1])
    return noise(comb, per_cm, traits.offset + 85)


def brow_cover(points: np.ndarray, template: Template, traits: Traits) -> np.ndarray:
    """[S] 0..1: hairs of the brows, drawn as slanted strokes in a tapering band."""
    out = np.zeros(len(points), np.float32)
    for side, marks in ((-1, template.landmarks[17:22]), (1, template.landmarks[22:27][::-1])):
        # marks run from the outer to the inner end
        curve = CubicSpline(np.arange(5), marks[:, :2])(np.linspace(-0.15, 4.25, 160))
        curve[:, 1] += traits.brow_lift - 0.22
        near = np.nonzero((points[:, 0] * side > 0.2) & (points[:, 2] > 5) & (np.abs(points[:, 1] - 5.8) < 2))[0]
        q = points[near, :2]
        distance, index = cKDTree(curve).query(q)
        s = index / 159  # 0 outer .. 1 inner
        tangent = np.gradient(curve, axis=0)[index]
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        offset = q - curve[index]
        across = (tangent[:, 0] * offset[:, 1] - tangent[:, 1] * offset[:, 0]) * -side  # positive = upwards
        beyond = np.maximum(distance - np.abs(across), 0)
        half = traits.brow_width * np.interp(s, [0, 0.25, 0.6, 0.9, 1], [0.25, 0.55, 0.9, 1.0, 0.75])
        band = smoothstep(1.15, 0.55, np.abs(across) / half) * smoothstep(0.22, 0.0, beyond)
        length = 5.0 * s
        slant = length + across * (0.9 - 0.3 * s)
        place = np.stack([slant * 1.0, across * 0.25, np.full_like(s, 7.0 * side)], axis=-1).astype(np.float32)
        strokes = noise(place, 5.0, traits.offset + 90) + 0.6 * noise(place, 9.0, traits.offset + 91)
        ragged = smoothstep(0.0, 0.75, band * (1 + 0.3 * strokes) - 0.12)
        out[near] = np.maximum(out[near], traits.brow_density * ragged * (0.72 + 0.28 * smoothstep(-0.8, 0.8, strokes)))
    return out


def thickness(template: Template, traits: Traits) -> np.ndarray:
    """[V] cm by which hair and beard push the surface of the template outwards."""
    p = template.points
    ears = cKDTree(p[template.ear > 0.5]).query(p)[0]
    free = smoothstep(0.1, 1.6, ears).astype(np.float32)
    h = hairline(p, traits)
    top = smoothstep(5.0, 11.5, p[:, 1])
    volume = traits.hair_sides + (1 - traits.hair_sides) * top
    lump = 1 + 0.16 * smooth_noise(p, 0.3, traits.offset + 75) + 0.12 * streaks(p, traits, 0.5)
    lean = 1 + 0.25 * traits.hair_part * np.tanh(p[:, 0] / 4) * top
    cap = traits.hair_volume * volume * lump * lean * smoothstep(-0.1, 1.7, h) * free
    beard = beard_cover(p, template, traits) * {"full": 0.35, "goatee": 0.25, "moustache": 0.15}.get(traits.beard, 0)
    beard = beard * (0.4 + 0.6 * traits.beard_density) * free
    drawn = np.zeros(len(p), bool)
    drawn[template.triangles[template.part == 0]] = True
    return np.where(drawn, np.maximum(cap, 0) + beard, 0).astype(np.float32)
