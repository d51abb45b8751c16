"""What all synthetic subjects share: the parts of the template head, and a lattice of paint samples on it.

Appearance is a function of *template coordinates*: the place of a surface point on the model's neutral mean
head, in centimetres (faces are designed in centimetres; no such length leaves this package). It therefore
sticks to the skin, whoever the subject is and whatever the face does. The function is evaluated once per
subject on a lattice inside every triangle and looked up by (triangle, barycentric) afterwards: no texture
atlas, no seams.

`Head` is the part of `headmodel.MorphableModel` that the recorder uses; capture does not import the head model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.draw import polygon2mask

from davatar.geometry.mesh import vertex_normals

SKIN, MOUTH, SOCKET, GUMS, TEETH, EYE_LEFT, EYE_RIGHT = range(7)
_PART_OF_REGION = {
    "face": SKIN,
    "head_and_neck": SKIN,
    "mouth_socket": MOUTH,
    "eye_socket_left": SOCKET,
    "eye_socket_right": SOCKET,
    "gums_and_tongue": GUMS,
    "teeth": TEETH,
    "eyeball_left": EYE_LEFT,
    "eyeball_right": EYE_RIGHT,
}
NECK_CUT = -12.5  # template y, cm: nothing below is drawn
NECK_HOLLOW = -7.0  # template y, cm: below, the inside of the neck can be seen through the cut
NECK_FADE = (-12.2, -10.2)  # template y, cm: the picture fades to the background between these
CM = 100.0
LIP_MAP_LOW, LIP_MAP_STEP = np.array([-4.0, -6.0]), 0.04  # template x, y of pixel (0, 0) and cm per pixel


class Head(Protocol):
    """A linear head model; see `davatar.headmodel.morphable.MorphableModel` for the meaning of the fields."""

    neutral: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: tuple[str, ...]
    triangles: np.ndarray
    vertex_region: np.ndarray
    region_names: tuple[str, ...]
    landmarks: np.ndarray
    sets: dict[str, np.ndarray]

    @property
    def template(self) -> np.ndarray:
        """[V, 3] neutral mean head in head-model units."""


@dataclass(frozen=True)
class Eye:
    vertices: np.ndarray  # [N] indices of the outer shell
    center: np.ndarray  # [3] cm, template
    radius: float  # cm
    axis: np.ndarray  # [3] unit, through the middle of the iris


@dataclass(frozen=True)
class Template:
    model: Head
    points: np.ndarray  # [V, 3] float32, cm
    normals: np.ndarray  # [V, 3] float32
    triangles: np.ndarray  # [F, 3] int32, everything that is drawn
    part: np.ndarray  # [F] uint8, SKIN ... EYE_RIGHT
    eyes: tuple[Eye, Eye]  # left, right
    lash_line: np.ndarray  # [N, 3] cm, where the lashes grow on all four lids
    ear: np.ndarray  # [V] 0..1

    @cached_property
    def landmarks(self) -> np.ndarray:
        """[68, 3] cm."""
        return self.points[self.model.landmarks]

    @cached_property
    def used(self) -> np.ndarray:
        """[N] vertices that any drawn triangle uses."""
        return np.unique(self.triangles)

    @cached_property
    def seen_by_depth(self) -> np.ndarray:
        """[F'] rows of `triangles` that a tracker can know of: no teeth, gums or tongue."""
        return np.nonzero(~np.isin(self.part, (GUMS, TEETH)))[0]

    @cached_property
    def lip_map(self) -> np.ndarray:
        """[200, 125] signed distance to the lip contour in the frontal plane, cm, negative inside; see LIP_MAP_*."""
        marks = self.landmarks[48:60, :2].astype(np.float64)
        curve = CubicSpline(np.arange(13), np.vstack([marks, marks[:1]]), bc_type="periodic")(np.linspace(0, 12, 240))
        inside = polygon2mask((200, 125), (curve - LIP_MAP_LOW) / LIP_MAP_STEP)
        return ((distance_transform_edt(~inside) - distance_transform_edt(inside)) * LIP_MAP_STEP).astype(np.float32)

    @cached_property
    def openness(self) -> np.ndarray:
        """[V] float32 0..1: share of the sky that a skin point of the neutral head sees within 5 cm."""
        return _openness(self.points, self.normals, self.triangles, np.isin(self.part, (SKIN, SOCKET)))

    @cached_property
    def lattices(self) -> dict[float, Lattice]:
        return {}

    def lattice(self, detail: float) -> Lattice:
        """The paint samples at about `detail` cm distance; made once."""
        if detail not in self.lattices:
            self.lattices[detail] = _lattice(self, detail)
        return self.lattices[detail]


_KNOWN: dict[int, Template] = {}


def template_of(model: Head) -> Template:
    """Made once per model instance (the entry keeps the instance alive, so its id stays its own)."""
    if id(model) not in _KNOWN:
        _KNOWN[id(model)] = _analyse(model)
    return _KNOWN[id(model)]


def _analyse(model: Head) -> Template:
    points = model.neutral.astype(np.float32) * np.float32(CM)
    part_of_vertex = np.array([_PART_OF_REGION.get(name, 255) for name in model.region_names])[model.vertex_region]
    part = part_of_vertex[model.triangles].max(axis=1)  # a triangle across a seam belongs to the inner part
    drawn = (part != 255) & (points[model.triangles, 1].min(axis=1) > NECK_CUT)
    eyes = tuple(_eye(points, model.triangles[part == side]) for side in (EYE_LEFT, EYE_RIGHT))
    shell = np.zeros(len(points), bool)
    shell[np.concatenate([eye.vertices for eye in eyes])] = True
    drawn &= (part < EYE_LEFT) | shell[model.triangles].all(axis=1)
    triangles = np.ascontiguousarray(model.triangles[drawn], dtype=np.int32)
    ear = np.zeros(len(points), np.float32)
    ear[model.sets["ears"]] = 1
    skin = points[part_of_vertex == SKIN]
    lashes = points[np.isin(model.vertex_region, [k for k, n in enumerate(model.region_names) if "lashes" in n])]
    roots = lashes[cKDTree(skin).query(lashes)[0] < 0.02]  # where the lashes, which are not drawn, grow from the lids
    normals = vertex_normals(points, triangles).astype(np.float32)
    return Template(model, points, normals, triangles, part[drawn].astype(np.uint8), eyes, roots, ear)


def _eye(points: np.ndarray, triangles: np.ndarray) -> Eye:
    """The eyeball is two closed shells; the wider one is the sclera with the cornea, the other the iris."""
    edges = triangles[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(points), len(points)))
    label = connected_components(graph, directed=False)[1]
    pieces = sorted({int(k) for k in label[triangles].ravel()}, key=lambda k: -np.ptp(points[label == k], axis=0).sum())
    shell, iris = (np.nonzero(label == k)[0] for k in pieces[:2])
    ball = points[shell].astype(np.float64)
    for _ in range(3):  # a sphere through the sclera: the cornea's bulge is left out after the first round
        solution = np.linalg.lstsq(np.c_[2 * ball, np.ones(len(ball))], np.square(ball).sum(1), rcond=None)[0]
        center = solution[:3]
        radius = float(np.sqrt(solution[3] + center @ center))
        inside = np.linalg.norm(points[shell] - center, axis=1) < 1.01 * radius
        ball = points[shell][inside].astype(np.float64)
    axis = points[iris].mean(axis=0) - center
    return Eye(shell, center.astype(np.float32), radius, (axis / np.linalg.norm(axis)).astype(np.float32))


def _openness(
    points: np.ndarray, normals: np.ndarray, triangles: np.ndarray, wanted: np.ndarray, rays: int = 32
) -> np.ndarray:
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, points, triangles)
    k = np.arange(rays) + 0.5
    height, turn = np.sqrt(1 - k / rays), np.pi * (1 + 5**0.5) * k  # cosine-weighted spiral on the hemisphere
    local = np.stack([np.sqrt(1 - height**2) * np.cos(turn), np.sqrt(1 - height**2) * np.sin(turn), height], -1)
    used = np.unique(triangles[wanted])
    normal = normals[used]
    side = np.cross(normal, np.where(np.abs(normal[:, :1]) < 0.6, [[1.0, 0, 0]], [[0, 1.0, 0]]))
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    frame = np.stack([side, np.cross(normal, side), normal], axis=1)
    direction = np.einsum("rk,nkc->nrc", local, frame).astype(np.float32)
    origin = np.broadcast_to((points[used] + 0.03 * normal)[:, None], direction.shape).astype(np.float32)
    hit = scene.run(origin.reshape(-1, 3), direction.reshape(-1, 3), query="DISTANCE").reshape(len(used), rays)
    out = np.ones(len(points), np.float32)
    out[used] = np.clip(hit / 5.0, 0, 1).mean(axis=1)
    return out


@dataclass(frozen=True)
class Samples:
    """Surface points of the template."""

    points: np.ndarray  # [S, 3] float32 cm
    part: np.ndarray  # [S] uint8
    ear: np.ndarray  # [S] float32
    lash: np.ndarray  # [S] float32 cm, distance to the roots of the lashes, at most 1

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.points[rows], self.part[rows], self.ear[rows], self.lash[rows])


@dataclass(frozen=True)
class Lattice:
    resolution: np.ndarray  # [F] int32, subdivisions of each triangle's edges; 0 = not painted (eyes)
    first: np.ndarray  # [F] int64, row of the triangle's first sample
    samples: Samples
    cell: np.ndarray  # [3, S] int32 rows of the lattice cell at a sample: its corner and the steps along a and b
    dual: np.ndarray  # [F, 2, 3] float32 1/cm: slope = (h[a] - h[corner]) * dual[0] + (h[b] - h[corner]) * dual[1]
    triangle: np.ndarray  # [S] int32

    def slope(self, height: np.ndarray) -> np.ndarray:
        """[S, 3] gradient along the surface of a height [S] cm, template axes."""
        corner, a, b = (height[rows] for rows in self.cell)
        dual = self.dual[self.triangle]
        return (a - corner)[:, None] * dual[:, 0] + (b - corner)[:, None] * dual[:, 1]

    def nearest(self, triangle: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
        """[N] row of the sample next to each surface point; arguments as for `find`."""
        n = self.resolution[triangle]
        i = (barycentric[:, 0] * n + 0.5).astype(np.int32)
        j = np.minimum((barycentric[:, 1] * n + 0.5).astype(np.int32), n - i)
        return self.first[triangle] + _row(i, j, n)

    def find(self, triangle: np.ndarray, barycentric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples around surface points, for linear interpolation.

        Args:
            triangle: [N] rows of the template's triangles, painted ones only.
            barycentric: [N, 3].

        Returns:
            rows [N, 3] into the samples, weights [N, 3].
        """
        n = self.resolution[triangle].astype(np.float32)
        a, b = barycentric[:, 0] * n, barycentric[:, 1] * n
        n_int = self.resolution[triangle].astype(np.int64)
        i = np.clip(a.astype(np.int64), 0, n_int - 1)
        j = np.clip(b.astype(np.int64), 0, n_int - 1 - i)
        fa, fb = a - i, b - j
        upper = fa + fb > 1  # the small triangle whose corners are (i+1, j+1), (i, j+1), (i+1, j)
        upper &= i + j <= n_int - 2
        corner = np.where(upper, 1, 0)
        base = self.first[triangle]
        rows = np.stack(
            [
                base + _row(i + corner, j + corner, n_int),
                base + _row(i + 1 - corner, j + corner, n_int),
                base + _row(i + corner, j + 1 - corner, n_int),
            ],
            axis=-1,
        )
        wa, wb = np.where(upper, 1 - fa, fa), np.where(upper, 1 - fb, fb)
        weights = np.clip(np.stack([1 - wa - wb, wa, wb], axis=-1), 0, 1)
        return rows, (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def _row(i: np.ndarray, j: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Position of lattice point (i, j), i + j <= n, in the list ordered by i, then j."""
    return i * (2 * n + 3 - i) // 2 + j


def _lattice(template: Template, detail: float) -> Lattice:
    corners = template.points[template.triangles]
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    unpainted = template.part >= EYE_LEFT
    inner = np.isin(template.part, (MOUTH, SOCKET, GUMS, TEETH))
    resolution = np.clip(np.ceil(edge / np.where(inner, 4 * detail, detail)), 1, 40).astype(np.int32)
    resolution[unpainted] = 0
    count = np.where(unpainted, 0, (resolution + 1) * (resolution + 2) // 2)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    total = int(count.sum())
    triangle, weights = np.empty(total, np.int32), np.empty((total, 3), np.float32)
    cell = np.empty((3, total), np.int32)
    for n in np.unique(resolution[resolution > 0]):
        ij = np.array([(i, j) for i in range(n + 1) for j in range(n + 1 - i)], np.float32)
        bary = np.c_[ij[:, 0], ij[:, 1], n - ij.sum(1)] / n
        which = np.nonzero(resolution == n)[0]
        rows = (first[which][:, None] + np.arange(len(bary))).ravel()
        triangle[rows] = np.repeat(which, len(bary))
        weights[rows] = np.tile(bary, (len(which), 1)).astype(np.float32)
        cell[:, rows] = (first[which][:, None] + _cells(int(n))[:, None]).reshape(3, -1)
    index = template.triangles[triangle]

    def spread(values: np.ndarray) -> np.ndarray:
        return np.einsum("sk,sk...->s...", weights, values[index])

    points = spread(template.points)
    lash = np.ones(total, np.float32)
    near = (points[:, 2] > 6) & (np.abs(points[:, 1] - 3.4) < 2.5)
    lash[near] = np.minimum(cKDTree(template.lash_line).query(points[near], distance_upper_bound=1.0)[0], 1.0)
    edges = (corners[:, :2] - corners[:, 2:]) / np.maximum(resolution, 1)[:, None, None]
    dual = np.linalg.pinv(edges).transpose(0, 2, 1).astype(np.float32)
    samples = Samples(points, template.part[triangle], spread(template.ear), lash)
    return Lattice(resolution, first, samples, cell, dual, triangle)


def _cells(n: int) -> np.ndarray:
    """[3, samples] positions of a cell next to every point of a lattice with `n` subdivisions."""
    i, j = np.array([(i, j) for i in range(n + 1) for j in range(n + 1 - i)]).T
    last = i + j == n  # no cell begins there: take the one before
    j = np.where(last & (i == 0), j - 1, j)
    i = np.where(last & (i > 0), i - 1, i)
    return np.stack([_row(i, j, n), _row(i + 1, j, n), _row(i, j + 1, n)])
