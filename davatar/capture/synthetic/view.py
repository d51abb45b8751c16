"""One picture of a posed subject: rays, paint, light, and the average over sub-rays.

The camera is brought into the head frame, so that one search tree serves every camera of an instant. Sub-rays
form the n x n grid over each pixel that `raster` uses for its coverage; colours are averaged as they are shown
(sRGB), so that image = alpha * head + (1 - alpha) * white holds at the rim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from davatar.capture.synthetic.eyes import paint_eye
from davatar.capture.synthetic.noise import smoothstep, unit
from davatar.capture.synthetic.shading import shade
from davatar.capture.synthetic.subject import Posed, Subject
from davatar.capture.synthetic.template import CM, EYE_LEFT, GUMS, MOUTH, NECK_FADE, NECK_HOLLOW, TEETH
from davatar.geometry.camera import Camera

BACKGROUND, LABEL_SKIN, LABEL_HAIR, LABEL_EYE, LABEL_MOUTH = 0, 1, 2, 5, 6  # classes of the simulated recordings


@dataclass(frozen=True)
class View:
    color: np.ndarray  # [H, W, 3] uint8 sRGB on white
    alpha: np.ndarray  # [H, W] float32 0..1, the neck fades out
    depth: np.ndarray  # [H, W] float32 m along the camera's z at the pixel centre, NaN = nothing there
    label: np.ndarray  # [H, W] uint8: 0 background, 1 skin, 2 hair, 5 eye, 6 mouth interior
    facing: np.ndarray  # [H, W] float32 cosine between ray and surface normal, 0 = nothing there
    brightness: np.ndarray  # [H, W] float32 0..1 mean albedo at the pixel centre
    returned: np.ndarray  # [H, W] float32 m, depth averaged over the sub-rays by the light they return, NaN = none
    spread: np.ndarray  # [H, W] float32 m, standard deviation of that average: large where a pixel mixes surfaces
    share: np.ndarray  # [H, W] float32 0..1, share of the sub-rays that hit


@dataclass(frozen=True)
class Hits:
    """Sub-rays that met the head."""

    triangle: np.ndarray  # [N] rows of the template's triangles
    barycentric: np.ndarray  # [N, 3]
    depth: np.ndarray  # [N] m along the camera's z
    ray: np.ndarray  # [N, 3] head frame, z = 1 in camera axes

    def __getitem__(self, rows: slice) -> Hits:
        return Hits(self.triangle[rows], self.barycentric[rows], self.depth[rows], self.ray[rows])


_RAYS = 1 << 19  # sub-rays traced at a time
_BLOCK = 1 << 13  # sub-rays shaded at a time, so that intermediate arrays stay in the processor's cache


def render_view(
    subject: Subject,
    weights: np.ndarray,
    gaze: np.ndarray,
    head_to_world: np.ndarray,
    camera: Camera,
    supersample: int = 3,
) -> View:
    """Pose the subject and take one picture.

    Args:
        weights: [53] expression weights.
        gaze: [2] radians, see `eyes`.
        head_to_world: [4, 4] rigid, head frame to studio world, m.
        camera: in the studio world.
        supersample: n of the n x n sub-rays per pixel; odd, so that one goes through the pixel's centre.
    """
    return film(subject.pose(weights, gaze), head_to_world, camera, supersample)


def film(posed: Posed, head_to_world: np.ndarray, camera: Camera, supersample: int = 3) -> View:
    """Like `render_view` for a subject that is posed already (many cameras, one instant)."""
    n, size = supersample, (camera.height, camera.width)
    view = View(
        color=np.full((*size, 3), 255, np.uint8),
        alpha=np.zeros(size, np.float32),
        depth=np.full(size, np.nan, np.float32),
        label=np.zeros(size, np.uint8),
        facing=np.zeros(size, np.float32),
        brightness=np.zeros(size, np.float32),
        returned=np.full(size, np.nan, np.float32),
        spread=np.zeros(size, np.float32),
        share=np.zeros(size, np.float32),
    )
    head_to_world = np.asarray(head_to_world, np.float64)
    in_head = camera.moved(camera.world_to_camera @ head_to_world)
    rotation = head_to_world[:3, :3].astype(np.float32)
    # A sub-ray that strides farther than the paint samples lie apart needs no interpolation between them.
    stride = np.linalg.norm(in_head.center) / (camera.K[0, 0] * n) * CM
    coarse = bool(stride > 0.6 * posed.subject.detail)
    for band in _bands(_window(posed, in_head), n):
        hit, hits = _trace(posed, in_head, band, n)
        look = np.empty((len(hits.depth), 7), np.float32)
        for start in range(0, len(look), _BLOCK):
            block = slice(start, start + _BLOCK)
            look[block] = _look(posed, hits[block], rotation, coarse)
        _expose(view, band, hit, look)
        _sense(view, band, hit, hits.depth, look)
    return view


def _expose(view: View, band: tuple[slice, slice], hit: np.ndarray, look: np.ndarray) -> None:
    """Fills colour and alpha of a band from its sub-rays."""
    rows, columns = view.alpha[band].shape
    n = hit.shape[0] // rows
    light = np.zeros((hit.size, 4), np.float32)
    light[:, :3] = 1
    light[hit.ravel(), :3] = 1 + look[:, 3:4] * (look[:, :3] - 1)
    light[hit.ravel(), 3] = look[:, 3]
    mean = light.reshape(rows, n, columns, n, 4).mean(axis=(1, 3))
    view.color[band] = np.clip(mean[..., :3] * 255 + 0.5, 0, 255).astype(np.uint8)
    view.alpha[band] = mean[..., 3]


def _sense(view: View, band: tuple[slice, slice], hit: np.ndarray, depth: np.ndarray, look: np.ndarray) -> None:
    """Fills everything that a depth sensor cares for: the middle sub-ray, and averages by returned light."""
    rows, columns = view.depth[band].shape
    n = hit.shape[0] // rows

    def cells(values: np.ndarray, empty: float = 0.0) -> np.ndarray:
        flat = np.full(hit.size, empty)
        flat[hit.ravel()] = values
        return flat.reshape(rows, n, columns, n)

    middle = np.s_[:, n // 2, :, n // 2]
    view.depth[band] = cells(depth, np.nan)[middle]
    view.label[band] = cells(look[:, 4])[middle]
    view.facing[band], view.brightness[band] = cells(look[:, 5])[middle], cells(look[:, 6])[middle]
    depth, light = depth.astype(np.float64), look[:, 5] * look[:, 6]
    weight, first, second = (cells(v).sum(axis=(1, 3)) for v in (light, light * depth, light * np.square(depth)))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / weight
        variance = second / weight - np.square(mean)
    view.returned[band] = mean
    view.spread[band] = np.sqrt(np.maximum(np.nan_to_num(variance), 0))
    view.share[band] = cells(np.ones(len(depth))).mean(axis=(1, 3))


def _window(posed: Posed, camera: Camera) -> tuple[slice, slice] | None:
    pixels, depth = camera.project(posed.vertices[posed.used])
    if depth.min() <= 0.01:
        return slice(0, camera.height), slice(0, camera.width)
    low = np.clip(np.floor(pixels.min(0)) - 1, 0, (camera.width, camera.height)).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 2, 0, (camera.width, camera.height)).astype(int)
    return None if (low >= high).any() else (slice(low[1], high[1]), slice(low[0], high[0]))


def _bands(window: tuple[slice, slice] | None, n: int) -> Iterator[tuple[slice, slice]]:
    """The window in strips of whole rows, so that large pictures need no more memory than small ones."""
    if window is not None:
        rows, columns = window
        height = max(1, _RAYS // (n * n * (columns.stop - columns.start)))
        for start in range(rows.start, rows.stop, height):
            yield slice(start, min(start + height, rows.stop)), columns


def _trace(posed: Posed, camera: Camera, window: tuple[slice, slice], n: int) -> tuple[np.ndarray, Hits]:
    """Which sub-rays of the window hit [rows * n, columns * n], and what."""
    steps = (np.arange(n) + 0.5) / n - 0.5
    v, u = ((np.arange(s.start, s.stop)[:, None] + steps).ravel() for s in window)
    pixels = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1).reshape(-1, 3)
    rays = (pixels @ (np.linalg.inv(camera.K).T @ camera.world_to_camera[:3, :3])).astype(np.float32)
    origins = np.ascontiguousarray(np.broadcast_to(camera.center.astype(np.float32), rays.shape))
    found = posed.scene.run(origins, rays, output=True)
    hit = found["primID"] >= 0
    a, b = found["u"][hit], found["v"][hit]
    hits = Hits(found["primID"][hit], np.stack([1 - a - b, a, b], axis=-1), found["tfar"][hit], rays[hit])
    return hit.reshape(len(v), len(u)), hits


def _look(posed: Posed, hits: Hits, rotation: np.ndarray, coarse: bool) -> np.ndarray:
    """[N, 7] sRGB colour, alpha, label, |cosine| between ray and surface, mean albedo of every hit.

    `rotation` [3, 3] turns head axes into studio axes; `coarse`: no interpolation between paint samples.
    """
    subject, template = posed.subject, posed.subject.template
    part = template.part[hits.triangle]
    index = template.triangles[hits.triangle]

    b, attributes = hits.barycentric, posed.attributes
    first, second, third = (attributes[index[:, k]] for k in range(3))
    mixed = b[:, :1] * first + b[:, 1:2] * second + b[:, 2:] * third
    where, normal, place, openness = mixed[:, :3], mixed[:, 3:6], mixed[:, 6:9], mixed[:, 9]
    to_eye = unit(-hits.ray)
    count = len(part)
    albedo, gloss = np.empty((count, 3), np.float32), np.ones(count, np.float32)
    cover = np.zeros(count, np.float32)
    painted = part < EYE_LEFT
    values, creased = _painted(posed, hits.triangle[painted], b[painted], place[painted], coarse)
    albedo[painted], gloss[painted], cover[painted] = values[:, :3], values[:, 3], values[:, 4]
    normal[painted] -= creased
    normal = unit(normal)
    turned = np.einsum("nc,nc->n", normal, to_eye)
    normal -= np.minimum(turned - 0.02, 0)[:, None] * to_eye  # relief never shows its back
    normal = unit(normal)

    for side, eye in enumerate(template.eyes):
        rows = np.nonzero(part == EYE_LEFT + side)[0]
        albedo[rows], gloss[rows], tilt = paint_eye(place[rows], eye, subject.traits)
        normal[rows] = unit(normal[rows] + tilt @ posed.turn.T)
        openness[rows] = _under_lid(where[rows], posed.landmarks, side)
    inside = np.isin(part, (MOUTH, GUMS, TEETH))
    openness[inside] = _in_mouth(where[inside], posed.landmarks)
    gloss[inside] *= openness[inside]

    eye = part >= EYE_LEFT
    wet = np.where(inside, 60, 22 + 14 * (1 - cover)).astype(np.float32)
    sharpness = np.where(eye, np.float32(260), wet)
    gloss = np.where(eye, 2.0 * gloss, gloss)
    scatter = np.where(eye, np.float32(0.8), 1 - 0.6 * cover)
    color = shade(albedo, normal @ rotation.T, to_eye @ rotation.T, openness, gloss, sharpness, scatter)
    label = np.where(eye, LABEL_EYE, np.where(inside, LABEL_MOUTH, np.where(cover > 0.5, LABEL_HAIR, LABEL_SKIN)))
    alpha = smoothstep(*NECK_FADE, place[:, 1]).astype(np.float32)
    low = np.nonzero(place[:, 1] < NECK_HOLLOW)[0]
    a, b, c = (attributes[index[low, k], :3] for k in range(3))
    within = np.einsum("nc,nc->n", np.cross(b - a, c - a), to_eye[low]) < 0
    alpha[low[within]] = 0  # seen from below through the cut of the neck: nobody is in there
    return np.column_stack([color, alpha, label, np.abs(turned), albedo @ np.full(3, 1 / 3, np.float32)])


def _painted(
    posed: Posed, triangle: np.ndarray, barycentric: np.ndarray, place: np.ndarray, coarse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Paint of skin, hair and mouth: [N, 5] albedo, gloss, hair cover, and the [N, 3] tilt of the normal."""
    subject = posed.subject
    if coarse:
        nearest = subject.lattice.nearest(triangle, barycentric)
        v = subject.paint.values[nearest]
    else:
        rows, weights = subject.lattice.find(triangle, barycentric)
        v = sum(weights[:, k : k + 1] * subject.paint.values[rows[:, k]] for k in range(3))
        nearest = rows[np.arange(len(rows)), weights.argmax(axis=1)]
    group = subject.paint.group[nearest]
    left = smoothstep(-0.8, 0.8, place[:, 0])
    amounts = np.concatenate([posed.creases, np.zeros((1, 2), np.float32)])[group]  # group -1 is the last row
    amount = amounts[:, 0] + left * (amounts[:, 1] - amounts[:, 0])
    out = np.empty((len(v), 5), np.float32)
    dark = np.exp(-(amount * v[:, 7])[:, None] * np.float32([0.45, 0.68, 0.68]))
    blood = v[:, 11] * (posed.blush[0] + left * (posed.blush[1] - posed.blush[0])) * (1 - 0.6 * subject.traits.melanin)
    out[:, :3] = v[:, :3] * dark * np.exp(blood[:, None] * np.float32([0.05, -0.22, -0.18]))
    out[:, 3], out[:, 4] = v[:, 3], v[:, 12]
    return out, v[:, 4:7] + amount[:, None] * v[:, 8:11]


def _under_lid(where: np.ndarray, landmarks: np.ndarray, side: int) -> np.ndarray:
    """[N] 0..1 light on the eyeball: the lids and lashes shade it. `side` 0 = the subject's left eye."""
    upper, lower = ([42, 43, 44, 45], [42, 47, 46, 45]) if side == 0 else ([36, 37, 38, 39], [36, 41, 40, 39])
    top, low = landmarks[upper], landmarks[lower]
    below = (np.interp(where[:, 0], top[:, 0], top[:, 1]) - where[:, 1]) * CM
    above = (where[:, 1] - np.interp(where[:, 0], low[:, 0], low[:, 1])) * CM
    light = smoothstep(-0.05, 0.38, below) * (0.6 + 0.4 * smoothstep(-0.05, 0.15, above))
    return (0.30 + 0.55 * light).astype(np.float32)


def _in_mouth(where: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """[N] 0..1 light inside the mouth: it falls off exponentially behind the lips."""
    lips = landmarks[60:68].mean(axis=0)
    behind = (lips[2] - where[:, 2]) * CM - 0.25 * np.abs(where[:, 0] - lips[0]) * CM
    return np.clip(0.9 * np.exp(-0.9 * np.maximum(behind, 0)), 0.03, 0.9).astype(np.float32)
