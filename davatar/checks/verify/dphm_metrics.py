"""Section F: reconstruction metrics (spec dphm 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.fixture import holds, read_arrays
from davatar.evaluation.surfaces import cloud_score, scan_to_mesh
from davatar.geometry.distance import MeshDistance
from davatar.geometry.mesh import Mesh

TOLERANCE = 1e-9  # float64; relative
# The stored search missed the nearest triangle of two points in four hundred by 3e-6 of its unit; ours does not.
AWAY, SCAN_MEANS = 5e-6, 1e-4
THRESHOLDS = {"units": (0.005, 0.01, 0.015, 0.02), "mm": (1, 5, 10, 20)}  # stored as f_score_05, _10, _15, _20
PLACES = ("05", "10", "15", "20")
RECALLS = (0.001, 0.0025, 0.005, 0.01)


def _metrics(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    normals = arrays["pred_n"], arrays["gt_n"]
    for unit, thresholds in THRESHOLDS.items():
        scale = 1.0 if unit == "units" else 1 / float(arrays["scale_s"])
        found = cloud_score(arrays["pred"] * scale, arrays["gt"] * scale, *normals, thresholds)
        stored = {f"f_score_{place}": f"f_score_{value:g}" for place, value in zip(PLACES, thresholds, strict=True)}
        stored |= {name: name for name in found if not name.startswith("f_score")}
        for key, name in stored.items():
            expected = arrays[f"{unit}_{key}"]
            yield compare(path.name, f"{name}, {unit}", np.array(found[name]), expected, TOLERANCE, relative=True)


def _scan_to_mesh(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    mesh = Mesh(arrays["s2m_vertices"], arrays["s2m_faces"])
    points, normals = arrays["s2m_points"], arrays["s2m_normals"]
    away = MeshDistance(mesh.vertices, mesh.triangles).nearest(points).distance
    expected = np.linalg.norm(points - arrays["s2m_closest"], axis=1)
    yield compare(path.name, "distances to a mesh", away, expected, AWAY)
    found = scan_to_mesh(mesh, points, normals, RECALLS)
    recalls = np.array([found[f"recall_{threshold:g}"] for threshold in RECALLS])
    yield compare(path.name, "scan to mesh recalls", recalls, arrays["s2m_recall"], TOLERANCE)
    for name, key in (("l1", "s2m_l1"), ("l2", "s2m_l2"), ("normals", "s2m_normal")):
        yield compare(path.name, f"scan to mesh {name}", np.array(found[name]), arrays[key], SCAN_MEANS, relative=True)


CLOUDS, SCANS = {"pred", "gt", "pred_n", "gt_n", "scale_s"}, {"s2m_vertices", "s2m_points", "s2m_closest"}


def _both(path: Path) -> Iterator[Comparison]:
    if holds(path, "F", CLOUDS):
        yield from _metrics(path)
    if holds(path, "F", SCANS):
        yield from _scan_to_mesh(path)


CHECKS = (Check("dphm F", lambda path: holds(path, "F", CLOUDS) or holds(path, "F", SCANS), _both),)
