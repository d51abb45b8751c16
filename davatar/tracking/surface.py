"""The part of the morphable head that is compared with depth, and how far each vertex is trusted.

Fitted: skin, eye sockets, eyeballs, inner mouth. Not fitted: neck and back (they bend apart from the
head), scalp (hair hides it). Frame: morphable, m.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.sparse import csr_array

from davatar.geometry.mesh import vertex_normals
from davatar.headmodel.morphable import SEE_THROUGH, MorphableModel, open_morphable

HEAD_CENTER = np.array([0.0, 0.010, 0.010])  # rotation increments turn about this point of the head
BACK = -0.030  # m; nothing behind this plane is fitted
NECK_LINE = ((0.060, -0.100), (-0.030, -0.020))  # (z, y) m of the neutral head, in the plane of symmetry
INNER = ("mouth_socket", "gums_and_tongue", "teeth")
CONFIDENCE = {"inner": 0.3, "socket": 0.3, "eyeball": 0.5}  # skin is 1


@dataclass(frozen=True)
class FitSurface:
    model: MorphableModel
    vertices: np.ndarray  # [K] index into the model's vertices
    triangles: np.ndarray  # [F, 3] into the K vertices
    confidence: np.ndarray  # [K] 0..1
    neutral: np.ndarray  # [K, 3] m
    identity: np.ndarray  # [K, 3, 100] m per standard deviation
    expression: np.ndarray  # [K, 3, 53] m at weight 1

    def shape(self, identity: np.ndarray) -> np.ndarray:
        """[100] -> [K, 3] m: the neutral face of this person."""
        return self.neutral + _blend(self.identity, identity)

    def posed(self, shape: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Neutral face [K, 3] and weights [53] -> [K, 3] m, morphable frame."""
        return shape + _blend(self.expression, expression)

    @cached_property
    def _corners(self) -> csr_array:
        """[K, F]: ones where the triangle has the vertex as a corner."""
        count = len(self.triangles)
        ones = np.ones(3 * count, np.float32)
        return csr_array((ones, (self.triangles.T.ravel(), np.tile(np.arange(count), 3))), (len(self.vertices), count))

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """[K, 3] -> [K, 3] unit, area weighted; a vertex without triangles gets zeros."""
        total = self._corners @ self._spans(vertices)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def areas(self, vertices: np.ndarray) -> np.ndarray:
        """[K, 3] m -> [K] m^2: a third of the triangles about each vertex."""
        return self._corners @ np.linalg.norm(self._spans(vertices), axis=1) / 6

    def _spans(self, vertices: np.ndarray) -> np.ndarray:
        """[F, 3]: normals of the triangles, twice their areas long."""
        a, b, c = (vertices[self.triangles[:, k]] for k in range(3))
        return np.cross(b - a, c - a)


def _blend(directions: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """[K, 3, D], [D] -> [K, 3]; in float32, which is a tenth of a micrometre here and four times faster."""
    return (directions.reshape(-1, directions.shape[-1]) @ amounts.astype(np.float32)).reshape(-1, 3)


def without_neck(neutral: np.ndarray) -> np.ndarray:
    """[V] bool: vertices [V, 3] in front of and above the line from under the chin to behind the ear lobes."""
    (z0, y0), (z1, y1) = NECK_LINE
    slope = (y1 - y0) / (z1 - z0)
    return neutral[:, 1] > y0 + slope * (np.minimum(neutral[:, 2], z0) - z0)


@lru_cache(maxsize=2)
def fit_surface(scalp: bool = False) -> FitSurface:
    """The fitted part of the open morphable model (shared after the first call).

    Args:
        scalp: also fit the scalp (bald heads, mannequins).
    """
    model = open_morphable()
    used = ~model.in_regions(*SEE_THROUGH) & (without_neck(model.neutral) | model.in_regions(*INNER))
    if not scalp:
        used[model.sets["scalp"]] = False
        used &= model.neutral[:, 2] > BACK
    hidden = vertex_normals(model.neutral, model.triangles)[:, 2] < -0.2  # backs of teeth and eyeballs: never seen
    used &= ~(hidden & model.in_regions(*INNER, "eyeball_left", "eyeball_right"))
    confidence = np.ones(len(used), np.float32)
    confidence[model.in_regions(*INNER)] = CONFIDENCE["inner"]
    confidence[model.in_regions("eye_socket_left", "eye_socket_right")] = CONFIDENCE["socket"]
    confidence[model.in_regions("eyeball_left", "eyeball_right")] = CONFIDENCE["eyeball"]
    index = np.flatnonzero(used)
    new = np.full(len(used), -1)
    new[index] = np.arange(len(index))
    return FitSurface(
        model=model,
        vertices=index,
        triangles=new[model.triangles_of(used)],
        confidence=confidence[index],
        neutral=model.neutral[index],
        identity=np.ascontiguousarray(model.identity[:, index].transpose(1, 2, 0)),
        expression=np.ascontiguousarray(model.expression[:, index].transpose(1, 2, 0)),
    )
