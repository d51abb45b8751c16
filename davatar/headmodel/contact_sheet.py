"""A picture of true and predicted heads side by side: the check that numbers do not replace.

Orthographic, shaded by the triangles' normals; head-model units.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from davatar.core.errors import DataError
from davatar.core.files import write_bytes
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_surface import ray_hits, teaching_surface
from davatar.headmodel.morphable import open_morphable

POSES = {
    "neutral": {},
    "blink": {"eyeBlink": 1.0},
    "brows up": {"browInnerUp": 1.0, "browOuterUp": 1.0},
    "left brow": {"browInnerUp_L": 1.0, "browOuterUp_L": 1.0},
    "jaw open": {"jawOpen": 0.8},
    "smile": {"mouthSmile": 1.0},
    "pucker": {"mouthPucker": 1.0},
    "sneer": {"noseSneer": 1.0, "mouthUpperUp": 0.7},
}
LOW, HIGH = np.array([-0.42, -0.5]), np.array([0.42, 0.5])  # head-model units, x and y of the picture


def shaded(vertices: np.ndarray, triangles: np.ndarray, turn: float, width: int) -> np.ndarray:
    """[H, W] uint8 picture seen from the front, the head turned by `turn` radians about y; white where nothing is."""
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = vertices @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    height = int(width * (HIGH - LOW)[1] / (HIGH - LOW)[0])
    x, y = np.meshgrid(np.linspace(LOW[0], HIGH[0], width), np.linspace(HIGH[1], LOW[1], height))
    origins = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2.0)], axis=1)
    hit = ray_hits(turned, triangles, origins, np.broadcast_to([0.0, 0.0, -1.0], origins.shape))
    corners = turned[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    light = np.array([0.35, 0.45, 0.82])
    shade = 0.15 + 0.85 * np.clip(normal @ light, 0, 1)
    return (255 * np.where(hit >= 0, shade[hit], 1.0)).astype(np.uint8).reshape(height, width)


def write_contact_sheet(
    path: str | Path, model: HeadModel, identity: np.ndarray, width: int = 200, resolution: int = 160
) -> None:
    """PNG: one column per pose, the morphable head above the head model's; `identity` [100] coefficients."""
    surface, morphable, columns = teaching_surface(), open_morphable(), []
    for k, (name, weights) in enumerate(POSES.items()):
        coefficients, turn = morphable.weights(**weights), (0.0, 0.5)[k % 2]
        truth = surface.vertices(identity[None], coefficients[None])[0]
        found = model.mesh(*model.codes(identity, coefficients), resolution)
        pictures = [
            shaded(truth, surface.all_triangles, turn, width),
            shaded(found.vertices.astype(float), found.triangles, turn, width),
        ]
        columns.append(np.concatenate([_label(name, width), *pictures]))
    _write_png(path, np.concatenate(columns, axis=1))


def write_head_sheet(
    path: str | Path,
    model: HeadModel,
    heads: Sequence[tuple[str, Tensor, Tensor]],
    width: int = 160,
    resolution: int = 64,
) -> None:
    """PNG: one column per head (label, identity code, expression code), from the front and from the side.

    A head without a surface, as before training, stays white.
    """
    columns = []
    for label, identity, expression in heads:
        try:
            mesh = model.mesh(identity, expression, resolution)
            views = [shaded(mesh.vertices.astype(float), mesh.triangles, turn, width) for turn in (0.0, 0.9)]
        except DataError:
            views = [np.full((int(width * (HIGH - LOW)[1] / (HIGH - LOW)[0]), width), 255, np.uint8)] * 2
        columns.append(np.concatenate([_label(label, width), *views]))
    _write_png(path, np.concatenate(columns, axis=1))


def _label(text: str, width: int) -> np.ndarray:
    import cv2

    label = np.full((22, width), 255, np.uint8)
    cv2.putText(label, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA)
    return label


def _write_png(path: str | Path, picture: np.ndarray) -> None:
    import cv2

    done, png = cv2.imencode(".png", picture)
    assert done
    write_bytes(path, png.tobytes())
