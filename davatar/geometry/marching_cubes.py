"""The classic marching cubes on scattered cells of a lattice.

Which triangles a cell gets depends only on which of its corners are inside; the table of all 256 cases is read off
scikit-image's implementation, cell by cell, so that a surface has the very triangles which that gives on the dense
grid. Corner c of a cell lies at (c >> 2, c >> 1 & 1, c & 1).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from davatar.geometry.lattice import STEP, Lattice, index_of, key_of

CORNERS = np.array([[c >> 2, (c >> 1) & 1, c & 1] for c in range(8)])
CORNER_KEYS = key_of(CORNERS)
FACES = np.array([[c for c in range(8) if CORNERS[c, axis] == side] for axis in range(3) for side in (0, 1)])
FACE_KEYS = np.array([(2 * side - 1) * STEP[axis] for axis in range(3) for side in (0, 1)])  # to the cell beyond
_CELLS_AT_ONCE = 1 << 17


def cases(inside: np.ndarray) -> np.ndarray:
    """Which corners [N, 8] are inside, as one number [N] uint8."""
    return np.packbits(inside, axis=1, bitorder="little")[:, 0]


@cache
def mixed_faces() -> np.ndarray:
    """[256, 6] bool: faces (-x, +x, -y, ...) of each case with corners on both sides."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    share = bits[:, FACES].mean(axis=2)
    return (share > 0) & (share < 1)


@cache
def _triangle_table() -> tuple[np.ndarray, np.ndarray]:
    """Triangles per case [256]; their vertices [256, 5, 3] as edges 4 * lower corner + axis, outward."""
    from skimage.measure import marching_cubes

    counts, edges = np.zeros(256, np.int64), np.zeros((256, 5, 3), np.int64)
    for case in range(1, 255):
        volume = np.array([1.0 if case >> c & 1 else -1.0 for c in range(8)]).reshape(2, 2, 2)
        vertices, triangles, _, _ = marching_cubes(volume, 0.0, method="lorensen")
        lower = vertices.astype(int) @ [4, 2, 1]  # vertices lie at the middles of edges
        edge = 4 * lower + (vertices == 0.5).argmax(axis=1)
        counts[case] = len(triangles)
        edges[case, : len(triangles)] = edge[triangles[:, ::-1]]
    return counts, edges


def triangulate(lattice: Lattice, cells: np.ndarray, case: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] float64 in the box's frame and triangles [F, 3] int32 of cells [N] of known corners."""
    counts, table = _triangle_table()
    corners = []
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        some, kind = cells[start : start + _CELLS_AT_ONCE], case[start : start + _CELLS_AT_ONCE]
        edge = table[kind][np.arange(5) < counts[kind][:, None]]
        low = np.repeat(some, counts[kind])[:, None] + CORNER_KEYS[edge >> 2]
        corners.append(4 * low + (edge & 3))
    edges, triangles = np.unique(np.concatenate(corners), return_inverse=True)
    vertices = np.empty((len(edges), 3))
    for start in range(0, len(edges), _CELLS_AT_ONCE):
        low, axis = edges[start : start + _CELLS_AT_ONCE] >> 2, edges[start : start + _CELLS_AT_ONCE] & 3
        here, there = (lattice.lookup(k).astype(np.float64) for k in (low, low + STEP[axis]))
        place = index_of(low).astype(np.float64)
        place[np.arange(len(low)), axis] += here / (here - there)
        vertices[start : start + len(low)] = place * lattice.steps + lattice.box[0]
    return vertices, triangles.reshape(-1, 3).astype(np.int32)
