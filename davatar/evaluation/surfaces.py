"""How well a surface is reconstructed, in the terms of the published evaluations (spec dphm 7.3).

Arrays in, numbers out. Any unit; points, meshes and thresholds share it. Two protocols: clouds of points with normals
against each other (both surfaces are known), and scan points against a mesh (only a scan is known).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from davatar.geometry.distance import MeshDistance
from davatar.geometry.mesh import Mesh


def cloud_score(
    prediction: np.ndarray,
    truth: np.ndarray,
    prediction_normals: np.ndarray,
    truth_normals: np.ndarray,
    thresholds: Sequence[float],
) -> dict[str, float]:
    """
    Args:
        prediction, truth: [N, 3], [M, 3] points on the two surfaces.
        prediction_normals, truth_normals: [N, 3] and [M, 3], any length.
        thresholds: of the F-scores.

    Returns:
        accuracy (prediction to truth) and completeness (truth to prediction), their means of squares, `chamfer_l1`,
        `chamfer_l2`, normals both ways and `normals_consistency`, and one `f_score_<threshold>` per threshold.
    """
    from scipy.spatial import cKDTree

    prediction_normals, truth_normals = _unit(prediction_normals), _unit(truth_normals)
    there, nearest_truth = cKDTree(truth).query(prediction)
    back, nearest_prediction = cKDTree(prediction).query(truth)
    found = {
        "accuracy": there.mean(),
        "completeness": back.mean(),
        "accuracy2": (there**2).mean(),
        "completeness2": (back**2).mean(),
        "normals_accuracy": np.abs((prediction_normals * truth_normals[nearest_truth]).sum(-1)).mean(),
        "normals_completeness": np.abs((truth_normals * prediction_normals[nearest_prediction]).sum(-1)).mean(),
    }
    found["chamfer_l1"] = (found["accuracy"] + found["completeness"]) / 2
    found["chamfer_l2"] = (found["accuracy2"] + found["completeness2"]) / 2
    found["normals_consistency"] = (found["normals_accuracy"] + found["normals_completeness"]) / 2
    for threshold in thresholds:
        precision, recall = (there <= threshold).mean(), (back <= threshold).mean()
        both = precision + recall
        found[f"f_score_{threshold:g}"] = 2 * precision * recall / both if both else 0.0
    return {name: float(value) for name, value in found.items()}


def scan_to_mesh(
    mesh: Mesh, points: np.ndarray, normals: np.ndarray, thresholds: Sequence[float] = (0.001, 0.0025, 0.005, 0.01)
) -> dict[str, float]:
    """
    Args:
        mesh: the reconstruction.
        points, normals: [N, 3] of the scan; normals of any length.
        thresholds: of the recalls; the default is 1, 2.5, 5 and 10 mm for metres.

    Returns:
        `l1` (mean sum of absolute coordinates) and `l2` (mean length) of the way to the mesh, one
        `recall_<threshold>` each, `normals` (mean |cosine| between the scan's normal and the triangle's).
    """
    nearest = MeshDistance(mesh.vertices, mesh.triangles).nearest(points)
    a, b, c = (mesh.vertices[mesh.triangles[nearest.triangle, k]] for k in range(3))
    cosine = (_unit(normals) * _unit(np.cross(b - a, c - a))).sum(-1)
    found = {"l1": np.abs(points - nearest.point).sum(-1).mean(), "l2": nearest.distance.mean()}
    found |= {f"recall_{threshold:g}": (nearest.distance <= threshold).mean() for threshold in thresholds}
    found["normals"] = np.abs(cosine).mean()
    return {name: float(value) for name, value in found.items()}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
