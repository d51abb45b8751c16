"""Surfaces of signed distance fields: marching cubes that only asks where the surface is.

The box is halved into ever smaller cells; a cell whose middle says that the surface is out of reach is dropped.
What is left are cells of two samples, among which no crossed cell can hide (`extract_surface` says under which
condition); then the surface is followed from cell to cell. The result is the dense grid's mesh without its
queries. The field is negative inside; triangles come out counter-clockwise seen from outside (spec dphm 2). Frame
and unit are those of the box. Values are kept in `lattice`, triangles come from `marching_cubes`; the surfaces of
a field that changes little by little are made by `surface_sequence`.
"""

from __future__ import annotations

import numpy as np

from davatar.core.errors import DataError
from davatar.geometry.lattice import Field, Lattice, key_of
from davatar.geometry.marching_cubes import (
    CORNER_KEYS,
    CORNERS,
    FACE_KEYS,
    cases,
    mixed_faces,
    triangulate,
)

MAX_BYTES = 256 << 20  # a ball across most of the box takes 28 MiB at 512 samples per axis, 172 MiB with its mesh
_COARSE_CELLS = 16  # per axis at the start of the search
_AT_ONCE = 1 << 15
_BLOCK = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])  # around a middle
_ROUNDING = 1 + 1e-5  # of a field in single precision, on top of `lipschitz`


def _middles(cells: np.ndarray, stride: int, resolution: int) -> np.ndarray:
    """Lattice points [N, 3] in the middle of cells [N, 3] of edge `stride`; cells at the end may be cut short."""
    return np.minimum(cells + stride // 2, resolution - 1)


def _within_reach(lattice: Lattice, lipschitz: float) -> np.ndarray:
    """Cells of edge 2 [N, 3] that may hold the surface; their middles' values are known afterwards.

    A field that changes by no more than `lipschitz` per length has no zero in a cell whose middle's value
    exceeds `lipschitz` times half the cell's diagonal.
    """
    count, stride = lattice.resolution, 4
    while (count - 1) / stride > _COARSE_CELLS:
        stride *= 2
    axis = np.arange(0, count - 1, stride)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    while stride > 2:
        values = lattice.ask(key_of(_middles(cells, stride, count)))
        cells = cells[np.abs(values) <= lipschitz * stride * 0.5 * np.linalg.norm(lattice.steps)]
        stride //= 2
        cells = (cells[:, None] + stride * CORNERS).reshape(-1, 3)
        cells = cells[(cells < count - 1).all(axis=1)]
    middles = _middles(cells, 2, count)
    lattice.evaluate(key_of(middles))
    values = lattice.lookup(key_of(middles))
    for offset in _BLOCK:  # what a middle says of the points around it: they are on its own side
        length = np.linalg.norm(offset * lattice.steps)
        points = middles[np.abs(values) > lipschitz * length] + offset
        sign = values[np.abs(values) > lipschitz * length]
        here = ((points >= 0) & (points < count)).all(axis=1)
        lattice.assume(key_of(points[here]), sign[here])
    return cells[np.abs(values) <= lipschitz * np.linalg.norm(lattice.steps)]


def _search(lattice: Lattice, lipschitz: float) -> np.ndarray:
    """Keys of all cells [N] with corners on both sides."""
    found, last = [np.empty(0, np.int64)], lattice.resolution - 1
    cells = _within_reach(lattice, lipschitz)
    for start in range(0, len(cells), _AT_ONCE):
        low = cells[start : start + _AT_ONCE]
        points = key_of(np.minimum(low[:, None] + 1 + _BLOCK, last))
        values = lattice.lookup(points)
        lattice.evaluate(points[np.isnan(values)])
        inside = (lattice.lookup(points) < 0).reshape(-1, 3, 3, 3)
        for i, j, k in CORNERS:
            corners = inside[:, i : i + 2, j : j + 2, k : k + 2].reshape(-1, 8)
            mixed = low[corners.any(axis=1) & ~corners.all(axis=1)] + (i, j, k)
            found.append(key_of(mixed[(mixed < last).all(axis=1)]))
    return np.concatenate(found)


def _follow(lattice: Lattice, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys [M] of every cell crossed by the surface that meets cells [N], all their corners known; their cases [M]."""
    last = lattice.resolution - 1
    crossed, case = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    while len(cells):
        cells, beyond = lattice.claim(lattice.distinct(cells)), [np.empty(0, np.int64)]
        for start in range(0, len(cells), _AT_ONCE):
            some = cells[start : start + _AT_ONCE]
            corners = some[:, None] + CORNER_KEYS
            lattice.evaluate(corners[~np.isfinite(lattice.lookup(corners))])
            kind = cases(lattice.lookup(corners) < 0)
            mixed = (kind != 0) & (kind != 255)
            crossed.append(some[mixed])
            case.append(kind[mixed])
            for face, across in enumerate(FACE_KEYS):
                through = some[mixed_faces()[kind, face]]
                place = (through >> (40, 20, 0)[face // 2]) & ((1 << 20) - 1)
                beyond.append(through[place < last - 1 if face % 2 else place > 0] + across)
        cells = np.concatenate(beyond)
    return np.concatenate(crossed), np.concatenate(case)


def crossed_cells(
    lattice: Lattice, lipschitz: float, previous: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the cells [N] that the surface crosses, their corners known, and their cases [N].

    Arguments and errors are those of `extract_surface`.
    """
    cells = np.empty(0, np.int64)
    if previous is not None:
        near = np.floor((previous - lattice.box[0]) / lattice.steps).astype(np.int64)
        cells, case = _follow(lattice, key_of(near[((near >= 0) & (near < lattice.resolution - 1)).all(axis=1)]))
    if len(cells) == 0:
        cells, case = _follow(lattice, _search(lattice, lipschitz * _ROUNDING))
    if len(cells) == 0:
        raise DataError("the field has no surface in the box", mend="check the codes, or enlarge the box")
    return cells, case


def largest_component(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the connected piece with most vertices; specks and inner bubbles go."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)
    _, label = connected_components(graph, directed=False)
    keep = label == np.bincount(label).argmax()
    number = np.cumsum(keep) - 1
    return vertices[keep], number[triangles[keep[triangles[:, 0]]]].astype(np.int32)


def extract_surface(
    field: Field,
    box: np.ndarray,
    resolution: int,
    previous: np.ndarray | None = None,
    max_queries: int = 16384,
    largest_only: bool = False,
    lipschitz: float = 1.2,
    max_bytes: int = MAX_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Triangle mesh of a field's zero.

    Without `previous` nothing is lost, however small: the mesh is the dense grid's own, provided that
    |field(a) - field(b)| <= lipschitz * |a - b| for all a, b in the box. Where a field is steeper, a piece of the
    surface is still found if it touches a piece that is found, or if it has samples on both sides in a cell of two
    samples whose middle, and the middles of the coarser cells around it, are not larger than the rule allows.

    Args:
        field: signed distance, negative inside; called with at most `max_queries` points.
        box: [2, 3] lower and upper corner.
        resolution: samples per axis, ends included (cells are not cubic unless the box is).
        previous: [V, 3] vertices of a surface nearby (last frame's): the surface is followed from the cells these
            lie in. A weaker promise: a connected piece of the dense mesh is found if one of its crossed cells
            holds such a vertex, others are not; if there is none at all, the whole box is searched.
        largest_only: drop all but the largest connected piece.
        lipschitz: how much steeper than a distance the field may be.
        max_bytes: of the values kept; everything else is in proportion to the mesh, or to `max_queries`.

    Returns:
        vertices [V, 3] float64 in the box's frame; triangles [F, 3] int32, outward.

    Raises:
        DataError: no surface in the box, or the field is not finite.
        ResourceError: the surface takes more than `max_bytes`.

    Source: spec dphm 2; equals the dense grid's mesh (tests/geometry/test_surface.py).
    """
    lattice = Lattice(field, box, resolution, max_queries, max_bytes)
    vertices, triangles = triangulate(lattice, *crossed_cells(lattice, lipschitz, previous))
    return largest_component(vertices, triangles) if largest_only else (vertices, triangles)
