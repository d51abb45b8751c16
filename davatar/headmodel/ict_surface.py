"""The surface that teaches the open head model: what a scanner would see of the morphable model, in head-model units.

Skin with mouth bag and eye sockets plus eyeballs, as a union of solids; only triangles that some
direction sees in some pose are kept, because thin lids and the hidden side of the sockets have no
place in a distance field of what is visible. Canonical pose: the neutral face with the mouth and
the lids moved off each other (a little jaw opening, a little blink), so that no surface has to be
pulled out of a slit of zero width. 1 head-model unit = 250 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse

from davatar.headmodel.morphable import OFFSET, UNITS_PER_METRE, MorphableModel, open_morphable

MM = 1.0 / 250.0  # head-model units per millimetre
CANONICAL_JAW, CANONICAL_BLINK = 0.25, 0.35
SKIN_REGIONS = ("face", "head_and_neck", "mouth_socket", "eye_socket_left", "eye_socket_right")
EYE_REGIONS = ("eyeball_left", "eyeball_right")

_PROBE_POSES = (
    {},
    {"jawOpen": CANONICAL_JAW, "eyeBlink": CANONICAL_BLINK},
    {"jawOpen": 1.0, "eyeWide": 1.0},
    {"eyeBlink": 1.0, "browInnerUp": 1.0},
    {"mouthSmile": 1.0, "jawOpen": 0.4, "eyeSquint": 0.5},
    {"mouthPucker": 1.0, "browDown": 1.0},
    {"mouthUpperUp": 1.0, "mouthLowerDown": 1.0, "eyeLookUp": 1.0},
    {"mouthFunnel": 1.0, "jawOpen": 0.3, "eyeLookDown": 1.0},
)


@dataclass(frozen=True)
class TeachingSurface:
    """Fixed topology of the visible surface and its linear basis; indices below are its own."""

    neutral: np.ndarray  # [V, 3] float32, head-model units
    basis: np.ndarray  # [153, V * 3] float32, 100 identity modes then 53 expression shapes, head-model units
    triangles: np.ndarray  # [F, 3] int32, visible ones only
    all_triangles: np.ndarray  # [F', 3] int32, hidden ones too (smooth normals and occlusion need them)
    is_eye: np.ndarray  # [F] bool, eyeball triangles
    is_bag: np.ndarray  # [F] bool, mouth bag
    near_eye: np.ndarray  # [F] bool, lids, sockets and eyeballs
    around_eyes: np.ndarray  # [F'] bool, among all_triangles: what can hide an eye or a lid
    density: np.ndarray  # [F] float, relative sampling density per area
    vertex: np.ndarray  # [V] index of each vertex in the morphable model
    incidence: scipy.sparse.csr_matrix  # [V, F'] sums triangle normals into vertex normals
    canonical_expression: np.ndarray  # [53] weights of the canonical pose

    def vertices(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """[n, 100], [n, 53] coefficients -> [n, V, 3] float32, head-model units."""
        coefficients = np.concatenate([identity, expression], axis=1).astype(np.float32)
        return self.neutral + (coefficients @ self.basis).reshape(len(coefficients), -1, 3)

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """[V, 3] -> smooth unit normals [V, 3], outward."""
        a, b, c = (vertices[self.all_triangles[:, k]] for k in range(3))
        summed = self.incidence @ np.cross(b - a, c - a)
        return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)


def ray_hits(vertices: np.ndarray, triangles: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[N] index of the first triangle each ray meets, -1 for none."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    scene = rtcore_scene.EmbreeScene()
    mesh = TriangleMesh(scene, np.ascontiguousarray(vertices[triangles], np.float32))  # must outlive the query
    found = scene.run(np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32))
    del mesh
    return found


def view_directions(count: int) -> np.ndarray:
    """[count, 3] unit vectors, even over the sphere but for the cone from below, where the neck is cut."""
    k = np.arange(count) + 0.5
    y = 1.0 - 1.7 * k / count
    angle = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - y**2)
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], axis=1)


def seen_triangles(vertices: np.ndarray, triangles: np.ndarray, directions: np.ndarray, seen: np.ndarray | None = None):
    """[F] bool: triangles whose centre some direction sees; those already `seen` are not tested again."""
    seen = np.zeros(len(triangles), bool) if seen is None else seen.copy()
    corners = vertices[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    centre = corners.mean(axis=1)
    origins, rays, of = [], [], []
    for direction in directions:
        open_ = np.flatnonzero(~seen & (normal @ direction > 0.1))
        origins.append(centre[open_] + 1e-4 * normal[open_])
        rays.append(np.broadcast_to(direction, (len(open_), 3)))
        of.append(open_)
    free = ray_hits(vertices, triangles, np.concatenate(origins), np.concatenate(rays)) < 0
    seen[np.concatenate(of)[free]] = True
    return seen


def canonical_expression(model: MorphableModel) -> np.ndarray:
    """[53] weights of the canonical pose."""
    return model.weights(jawOpen=CANONICAL_JAW, eyeBlink=CANONICAL_BLINK)


def _density(model: MorphableModel, triangles: np.ndarray) -> np.ndarray:
    """Relative density per triangle: fine where lids and lips are, coarse on the scalp and in the mouth."""
    per_vertex = np.ones(len(model.neutral))
    for vertices, value in (
        (model.in_regions("mouth_socket"), 0.5),
        (model.sets["scalp"], 0.5),
        (model.sets["narrow_face"], 2.0),
        (model.sets["lips"], 12.0),
        (model.sets["eyelids"], 25.0),
        (model.in_regions(*EYE_REGIONS), 12.0),
    ):
        per_vertex[vertices] = value
    per_vertex[model.in_regions("head_and_neck") & (model.neutral[:, 2] < 0.0)] = 0.5
    per_vertex[model.sets["ears"]] = 2.0
    return per_vertex[triangles].mean(axis=1)


@lru_cache(maxsize=1)
def teaching_surface() -> TeachingSurface:
    """The surface of the shipped morphable model (a few seconds the first time; shared afterwards)."""
    model = open_morphable()
    triangles = model.triangles_of(model.in_regions(*SKIN_REGIONS, *EYE_REGIONS))
    used, index = np.unique(triangles, return_inverse=True)
    index = index.reshape(triangles.shape).astype(np.int32)
    neutral = (UNITS_PER_METRE * model.neutral[used] + OFFSET).astype(np.float32)
    modes = np.concatenate([model.identity[:, used], model.expression[:, used]])
    basis = np.ascontiguousarray((UNITS_PER_METRE * modes).reshape(len(modes), -1), np.float32)
    seen = np.zeros(len(index), bool)
    directions = view_directions(37)
    for pose in _PROBE_POSES:
        coefficients = np.concatenate([np.zeros(100, np.float32), model.weights(**pose)])
        seen = seen_triangles(neutral + (coefficients @ basis).reshape(-1, 3), index, directions, seen)
    eyes = model.in_regions(*EYE_REGIONS)
    near = eyes | model.in_regions("eye_socket_left", "eye_socket_right")
    near[model.sets["eyelids"]] = True
    centres = [neutral[model.in_regions(name)[used]].mean(axis=0) for name in EYE_REGIONS]
    close = np.min([np.linalg.norm(neutral - centre, axis=1) for centre in centres], axis=0) < 28 * MM
    rows = index.ravel()
    columns = np.repeat(np.arange(len(index)), 3)
    shape = (len(used), len(index))
    incidence = scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    return TeachingSurface(
        neutral=neutral,
        basis=basis,
        triangles=index[seen],
        all_triangles=index,
        is_eye=eyes[triangles[seen]].all(axis=1),
        is_bag=model.in_regions("mouth_socket")[triangles[seen]].all(axis=1),
        near_eye=near[triangles[seen]].all(axis=1),
        around_eyes=close[index].any(axis=1),
        density=_density(model, triangles[seen]),
        vertex=used,
        incidence=incidence,
        canonical_expression=canonical_expression(model),
    )
