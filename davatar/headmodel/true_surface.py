"""What can be seen of a true morphable head, and how far a predicted surface is from it, both ways.

From truth to prediction by Newton steps along the field's gradient, from the predicted mesh back to
the true triangles exactly; never by the field's value, which a flat field makes small. Head-model units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from davatar.geometry.distance import MeshDistance
from davatar.geometry.mesh import Mesh, vertex_normals
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_scans import FACE_VERTICES, NECK
from davatar.headmodel.ict_surface import MM, seen_triangles, teaching_surface, view_directions
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.smooth_surface import draw_spots, triangle_areas

VIEWS = 24
LONGEST_STEP = 7.5 * MM


@dataclass(frozen=True)
class TrueSurface:
    points: np.ndarray  # [n, 3] visible, above the neck cut, even over the area
    normals: np.ndarray  # [n, 3]
    regions: dict[str, np.ndarray]  # name -> [n] bool
    vertices: np.ndarray  # [V, 3] of the whole head
    triangles: np.ndarray  # [F, 3] the visible ones
    triangle_regions: dict[str, np.ndarray]  # name -> [F] bool


@dataclass(frozen=True)
class Comparison:
    """Distances in head-model units, cosines between normals; one value per point or vertex."""

    away: np.ndarray  # [N] from truth to prediction, or back
    cosine: np.ndarray  # [N]
    regions: dict[str, np.ndarray]  # name -> [N] bool


def _region_of_triangles() -> dict[str, np.ndarray]:
    surface, model = teaching_surface(), open_morphable()
    corners = surface.vertex[surface.all_triangles]
    lips, lids = np.zeros(len(model.neutral), bool), np.zeros(len(model.neutral), bool)
    lips[model.sets["lips"]] = lids[model.sets["eyelids"]] = True
    eye = model.in_regions("eyeball_left", "eyeball_right")[corners].all(axis=1)
    bag = model.in_regions("mouth_socket")[corners].any(axis=1)
    return {
        "face": ((corners < FACE_VERTICES).all(axis=1) | eye) & ~bag,
        "head": ~bag,
        "lips": lips[corners].all(axis=1) & ~bag,
        "eyes": lids[corners].any(axis=1) | eye,
        "mouth bag": bag,
    }


def true_surface(vertices: np.ndarray, count: int, rng: np.random.Generator) -> TrueSurface:
    """`count` area-even samples of what is visible of a morphable head [V, 3] from around it."""
    triangles = teaching_surface().all_triangles
    seen = seen_triangles(vertices, triangles, view_directions(VIEWS))
    seen &= vertices[triangles][..., 1].min(axis=1) > NECK
    triangles, regions = triangles[seen], {name: inside[seen] for name, inside in _region_of_triangles().items()}
    chosen, barycentric = draw_spots(triangle_areas(vertices, triangles), count, rng)
    points = np.einsum("nk,nkc->nc", barycentric, vertices[triangles[chosen]])
    normals = _triangle_normals(vertices, triangles)[chosen]
    of_points = {name: inside[chosen] for name, inside in regions.items()}
    return TrueSurface(points, normals, of_points, vertices, triangles, regions)


def _triangle_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[triangles[:, k]].astype(np.float64) for k in range(3))
    cross = np.cross(b - a, c - a)
    return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-20)


def project(
    model: HeadModel, points: np.ndarray, identity: Tensor, expression: Tensor, steps: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest predicted surface of points [N, 3], by Newton steps along the gradient, none longer than 7.5 mm.

    Returns:
        distance [N]; steepness [N], norm of the gradient at the start; normal [N, 3] of the surface reached.
    """
    start = torch.from_numpy(points.astype(np.float32))
    x, steepness = start.clone(), None
    for _ in range(steps):
        value, gradient = model.sdf_and_gradient(x, identity, expression)
        norm = gradient.norm(dim=-1)
        steepness = norm if steepness is None else steepness
        step = (value / norm.clamp_min(1e-3)).clamp(-LONGEST_STEP, LONGEST_STEP)
        x = x - step[:, None] * gradient / norm.clamp_min(1e-3)[:, None]
    _, gradient = model.sdf_and_gradient(x, identity, expression)
    normal = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return (x - start).norm(dim=-1).numpy(), steepness.numpy(), normal.numpy()


def towards_prediction(
    model: HeadModel, truth: TrueSurface, identity: Tensor, expression: Tensor
) -> tuple[Comparison, np.ndarray]:
    """From the true points to the predicted surface; and the field's steepness at them [n]."""
    distance, steepness, normal = project(model, truth.points, identity, expression)
    cosine = np.einsum("nc,nc->n", normal, truth.normals)
    return Comparison(distance, cosine, truth.regions), steepness


def towards_truth(mesh: Mesh, truth: TrueSurface) -> Comparison:
    """From what can be seen of the predicted mesh to the true triangles."""
    seen = seen_triangles(mesh.vertices, mesh.triangles, view_directions(VIEWS))
    used = np.unique(mesh.triangles[seen])
    used = used[mesh.vertices[used, 1] > NECK + 5 * MM]
    nearest = MeshDistance(truth.vertices, truth.triangles).nearest(mesh.vertices[used])
    normals = vertex_normals(mesh.vertices, mesh.triangles)[used]
    cosine = np.einsum("nc,nc->n", normals, _triangle_normals(truth.vertices, truth.triangles)[nearest.triangle])
    regions = {name: inside[nearest.triangle] for name, inside in truth.triangle_regions.items()}
    return Comparison(nearest.distance, cosine, regions)
