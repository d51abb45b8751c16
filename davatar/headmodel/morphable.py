"""The open morphable head model (ICT-FaceKit, MIT): neutral head + linear identity modes + linear expression shapes.

It teaches the neural model, takes FLAME's place in the geometric fit, and is the head that the
synthetic recorder films. Frame "morphable": metres, +x the subject's left, +y up, +z out of the
face, origin inside the head. Head-model units: x_H = 4 * x_morphable + OFFSET (spec dphm 0.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError
from davatar.geometry.mesh import Mesh

UNITS_PER_METRE = 4.0  # 1 head-model unit = 0.25 m
OFFSET = np.array([0.0, -0.0654, -0.2508])  # head-model units; puts nose tip and chin onto the published mean anchors
SEE_THROUGH = (
    "lacrimal_fluid_left",
    "lacrimal_fluid_right",
    "eye_blend_left",
    "eye_blend_right",
    "eye_occlusion_left",
    "eye_occlusion_right",
    "eyelashes_left",
    "eyelashes_right",
)  # helper sheets in front of the eye that no camera sees as a surface


@dataclass(frozen=True)
class MorphableModel:
    neutral: np.ndarray  # [V, 3] float32 m
    identity: np.ndarray  # [100, V, 3] float32 m per standard deviation
    expression: np.ndarray  # [53, V, 3] float32 m at weight 1
    expression_names: tuple[str, ...]  # 53 ARKit-like names
    expression_mirror: np.ndarray  # [53] index of the left-right swapped shape
    triangles: np.ndarray  # [F, 3] int32, every part
    vertex_region: np.ndarray  # [V] uint8 index into region_names
    region_names: tuple[str, ...]
    landmarks: np.ndarray  # [68] vertex of each point of the 68-point markup
    mirror_vertex: np.ndarray  # [V]
    sets: dict[str, np.ndarray]  # vertex lists: ears, lips, nose, eyelids, scalp, narrow_face, front_face, skin, ...

    def vertices(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Linear blend.

        Args:
            identity: [..., 100] coefficients, standard deviations.
            expression: [..., 53] weights, 0..1; leading axes broadcast with those of `identity`.

        Returns:
            [..., V, 3] float32, m, morphable frame.
        """
        identity, expression = np.asarray(identity, np.float32), np.asarray(expression, np.float32)
        moved = identity @ self.identity.reshape(len(self.identity), -1)
        moved = moved + expression @ self.expression.reshape(len(self.expression), -1)
        return self.neutral + moved.reshape(*moved.shape[:-1], -1, 3)

    def in_regions(self, *names: str) -> np.ndarray:
        """[V] bool: vertices that belong to the named regions."""
        unknown = set(names) - set(self.region_names)
        if unknown:
            raise DataError(f"no such region: {sorted(unknown)}; there are {list(self.region_names)}")
        return np.isin(self.vertex_region, [self.region_names.index(name) for name in names])

    def triangles_of(self, vertices: np.ndarray) -> np.ndarray:
        """[F', 3] triangles all of whose corners are in the [V] bool mask, indices unchanged."""
        return self.triangles[vertices[self.triangles].all(axis=1)]

    @cached_property
    def visible_triangles(self) -> np.ndarray:
        """Triangles of everything a camera can see: all parts but the see-through sheets and lashes."""
        return self.triangles_of(~self.in_regions(*SEE_THROUGH))

    @cached_property
    def template(self) -> np.ndarray:
        """[V, 3] neutral mean head in head-model units: the canonical coordinates of its own mesh."""
        return to_head_units(self.neutral).astype(np.float32)

    @cached_property
    def expression_index(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.expression_names)}

    def mesh(self, identity: np.ndarray, expression: np.ndarray) -> Mesh:
        """Visible surface, m, morphable frame."""
        return Mesh(self.vertices(identity, expression), self.visible_triangles)

    def weights(self, **named: float) -> np.ndarray:
        """[53] weights from names; a name without _L/_R sets both sides.

        Raises:
            DataError: a name that no shape has.
        """
        out = np.zeros(len(self.expression_names), np.float32)
        for name, value in named.items():
            found = [k for n, k in self.expression_index.items() if n == name or n in (f"{name}_L", f"{name}_R")]
            if not found:
                raise DataError(f"no expression shape is called {name!r}; there are {', '.join(self.expression_names)}")
            out[found] = value
        return out


def to_head_units(points: np.ndarray) -> np.ndarray:
    """Morphable frame, m -> head-model units."""
    return UNITS_PER_METRE * points + OFFSET


def from_head_units(points: np.ndarray) -> np.ndarray:
    """Head-model units -> morphable frame, m."""
    return (points - OFFSET) / UNITS_PER_METRE


def _unpack(archive: np.lib.npyio.NpzFile, name: str, count: int) -> np.ndarray:
    packed = (archive[f"{name}_hi"][:count].astype(np.int32) << 8) + archive[f"{name}_lo"][:count]
    steps = np.where(packed % 2 == 0, packed // 2, -((packed + 1) // 2))
    values = np.cumsum(steps, axis=-1, dtype=np.int32) * archive[f"{name}_step"][:count, None, None]
    return np.ascontiguousarray(values.transpose(0, 2, 1) * 0.01, dtype=np.float32)


def load_morphable(path: str | Path) -> MorphableModel:
    """Read a packed model file (`ict_face_model.npz`; stored in centimetres, returned in metres).

    Raises:
        DataError: the file is absent, truncated or lacks an array.
    """
    try:
        with np.load(path) as archive:
            names = tuple(str(name) for name in archive["expression_names"][:53])
            return MorphableModel(
                neutral=archive["neutral"] * np.float32(0.01),
                identity=_unpack(archive, "identity", 100),
                expression=_unpack(archive, "expression", 53),
                expression_names=names,
                expression_mirror=archive["expression_mirror"][:53],
                triangles=archive["triangles"],
                vertex_region=archive["vertex_region"],
                region_names=tuple(str(name) for name in archive["region_names"]),
                landmarks=archive["landmarks68"],
                mirror_vertex=archive["mirror_vertex"],
                sets={k[4:]: archive[k] for k in archive.files if k.startswith("set_")},
            )
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise DataError(f"is not a readable morphable model: {error}", file=path) from error


@lru_cache(maxsize=1)
def open_morphable() -> MorphableModel:
    """The model that ships with davatar (about 0.3 s the first time; shared afterwards)."""
    with as_file(files("davatar.assets") / "ict" / "ict_face_model.npz") as path:
        return load_morphable(path)
