"""How far a tracked head is from the true one, in mm. Arrays in, numbers out; metres, one frame of reference.

Scan to mesh stands beside the truth's own value only: below the sensor's error it rewards fitting its bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from davatar.geometry.distance import MeshDistance
from davatar.geometry.mesh import Mesh

LOST_MM, LOST_DEGREES = 5.0, 10.0  # a frame beyond either counts as lost


@dataclass(frozen=True)
class FrameScore:
    """One frame of one tracked surface; NaN where it cannot be said."""

    surface: Mapping[str, float]  # region -> mean mm of the true vertices to the tracked surface
    surface_95: float  # mm, 95 % of the face's distances
    vertex: float  # mm, mean distance to the same tracked point (sliding counts)
    mouth: float  # mm, |error of the mouth's opening|
    rotation: float  # degrees
    offsets: np.ndarray | None = field(default=None, repr=False)  # [K, 3] mm, tracked minus true points


def score_frame(
    mesh: Mesh,
    truth: Mapping[str, np.ndarray],
    *,
    same_points: tuple[np.ndarray, np.ndarray] | None = None,
    mouth: tuple[np.ndarray, np.ndarray] | None = None,
    rotations: tuple[np.ndarray, np.ndarray] | None = None,
) -> FrameScore:
    """
    Args:
        mesh: the tracked surface.
        truth: region -> [K, 3] true vertices; `face` is needed, others are reported beside it.
        same_points: tracked and true positions [K, 3] of the same points of the head.
        mouth: tracked and true positions [2, 3] of the middle of upper and lower lip.
        rotations: tracked and true head rotation [3, 3].
    """
    search = MeshDistance(mesh.vertices, mesh.triangles)
    away = {region: 1000 * search.nearest(points).distance for region, points in truth.items()}
    offsets = None if same_points is None else 1000 * (same_points[0] - same_points[1])
    return FrameScore(
        surface={region: float(values.mean()) for region, values in away.items()},
        surface_95=float(np.percentile(away["face"], 95)),
        vertex=float("nan") if offsets is None else float(np.linalg.norm(offsets, axis=1).mean()),
        mouth=float("nan") if mouth is None else 1000 * abs(_opening(mouth[0]) - _opening(mouth[1])),
        rotation=float("nan") if rotations is None else angle_between(*rotations),
        offsets=offsets,
    )


def scan_score(mesh: Mesh, scan: np.ndarray) -> dict[str, float]:
    """Depth points [N, 3] to a surface, in mm: mean, 95 %, share within 1 mm. All there is without a truth."""
    away = 1000 * MeshDistance(mesh.vertices, mesh.triangles).nearest(scan).distance
    return {"mean": float(away.mean()), "p95": float(np.percentile(away, 95)), "within_1mm": float((away < 1).mean())}


def _opening(lips: np.ndarray) -> float:
    return float(np.linalg.norm(lips[0] - lips[1]))


def angle_between(one: np.ndarray, other: np.ndarray) -> float:
    """Degrees between two rotations [3, 3]."""
    relative = one @ other.T
    sine = 0.5 * np.linalg.norm(
        [relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]]
    )
    return float(np.degrees(np.arctan2(sine, (np.trace(relative) - 1) / 2)))


def summarise(frames: Sequence[FrameScore]) -> dict[str, float]:
    """Means over frames, the worst frame, and what only a sequence has: jitter and lost frames."""

    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan")

    face = [frame.surface["face"] for frame in frames]
    regions = [region for region in frames[0].surface if region != "face"]
    mouths = [frame.mouth for frame in frames if np.isfinite(frame.mouth)]
    turned = [np.isfinite(frame.rotation) and frame.rotation > LOST_DEGREES for frame in frames]
    lost = (np.array(face) > LOST_MM) | np.array(turned)
    return {
        "face_mm": mean(face),
        "face_95_mm": mean([frame.surface_95 for frame in frames]),
        "face_worst_mm": float(np.max(face)),
        "vertex_mm": mean([frame.vertex for frame in frames]),
        **{f"{region}_mm": mean([frame.surface[region] for frame in frames]) for region in regions},
        "mouth_mm": mean(mouths),
        "mouth_95_mm": float(np.percentile(mouths, 95)) if mouths else float("nan"),
        "rotation_deg": mean([frame.rotation for frame in frames]),
        "jitter_mm": jitter([frame.offsets for frame in frames]),
        "lost": float(lost.sum()),
    }


def jitter(offsets: Sequence[np.ndarray | None]) -> float:
    """Mean change of the points' error from frame to frame, mm; NaN without same points."""
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    changes = [np.linalg.norm(b - a, axis=1).mean() for a, b in pairs if a is not None and b is not None]
    return float(np.mean(changes)) if changes else float("nan")
