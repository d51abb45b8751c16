"""Surfaces of signed distance fields: marching cubes that only asks where the surface is.

A grid is searched coarse to fine for cells that may hold the surface; on the finest grid the search
then follows the surface from cell to cell until every cell it crosses is known. The result is the
dense grid's mesh without its queries, up to specks smaller than four cells. The field is negative
inside; triangles come out counter-clockwise seen from outside (spec dphm 2). Frame and unit are
those of the box.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from davatar.core.errors import DataError

Field = Callable[[np.ndarray], np.ndarray]  # [N, 3] points -> [N] signed distances
_CORNERS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1])
_STRIDES = (8, 4)


class _Samples:
    """Values of a field on a cubic lattice of indices, evaluated at most once per point and in bounded batches."""

    def __init__(self, field: Field, box: np.ndarray, resolution: int, max_queries: int):
        self.field, self.max_queries, self.resolution = field, max_queries, resolution
        self.axes = [np.linspace(box[0, c], box[1, c], resolution) for c in range(3)]
        self.shape = (resolution,) * 3
        self.values = np.full(self.shape, np.nan, np.float32)
        self.marks = np.zeros(resolution**3, bool)

    def distinct(self, index: np.ndarray) -> np.ndarray:
        """Each of the lattice points [N, 3] once (marking a dense grid is faster than sorting)."""
        self.marks[np.ravel_multi_index(tuple(index.T), self.shape)] = True
        flat = np.flatnonzero(self.marks)
        self.marks[flat] = False
        return np.stack(np.unravel_index(flat, self.shape), axis=1)

    def evaluate(self, index: np.ndarray) -> np.ndarray:
        """Ask for lattice points [N, 3]; returns those [M, 3] that were new."""
        index = index[np.isnan(self.values[tuple(index.T)])]
        flat = np.ravel_multi_index(tuple(self.distinct(index).T), self.shape)
        for start in range(0, len(flat), self.max_queries):
            part = flat[start : start + self.max_queries]
            place = np.unravel_index(part, self.shape)
            points = np.stack([axis[i] for axis, i in zip(self.axes, place, strict=True)], axis=1)
            found = np.asarray(self.field(points), np.float32)
            if not np.isfinite(found).all():
                raise DataError("the field is not finite everywhere in the box", mend="check the codes")
            self.values.reshape(-1)[part] = found
        return np.stack(np.unravel_index(flat, self.shape), axis=1)

    def inside(self, index: np.ndarray) -> np.ndarray:
        """[N] bool at evaluated lattice points [N, 3]."""
        return self.values[tuple(index.T)] < 0

    def corners(self, cells: np.ndarray, stride: int) -> np.ndarray:
        """Values [N, 8] at the corners of cells [N, 3] of edge `stride`; NaN where unknown."""
        last = self.resolution - 1
        return self.values[tuple(np.moveaxis(np.minimum(cells[:, None] + stride * _CORNERS, last), -1, 0))]


def _mixed(corners: np.ndarray) -> np.ndarray:
    """[N] bool: known corners on both sides."""
    return (corners < 0).any(axis=1) & (corners >= 0).any(axis=1)


def _corner_points(cells: np.ndarray, stride: int, resolution: int) -> np.ndarray:
    return np.minimum((cells[:, None] + stride * _CORNERS).reshape(-1, 3), resolution - 1)


def _search(samples: _Samples, steps: np.ndarray, lipschitz: float) -> np.ndarray:
    """Coarse to fine: lattice cells of edge 1 [N, 3] that touch every piece of the surface larger than a coarse cell.

    A coarse cell is refined if the smallest value at its corners is within reach of the surface:
    half its diagonal times the field's steepness. Then edges whose ends differ in sign are halved
    until they have length 1; `_follow` finds the rest.
    """
    count = samples.resolution
    coarse, fine = _STRIDES
    axis = np.arange(0, count - 1, coarse)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    samples.evaluate(_corner_points(cells, coarse, count))
    near = np.abs(samples.corners(cells, coarse)).min(axis=1) <= lipschitz * 0.5 * coarse * np.linalg.norm(steps)
    near |= _mixed(samples.corners(cells, coarse))
    cells = (cells[near][:, None] + fine * _CORNERS).reshape(-1, 3)
    cells = cells[(cells < count - 1).all(axis=1)]
    samples.evaluate(_corner_points(cells, fine, count))
    corners = np.minimum(cells[:, None] + fine * _CORNERS, count - 1)
    low, high = (corners[:, _EDGES[:, side]].reshape(-1, 3) for side in (0, 1))
    while True:
        differ = samples.inside(low) != samples.inside(high)
        low, high = low[differ], high[differ]
        if len(low) == 0 or (high - low).sum(axis=1).max() <= 1:
            return low[(low < count - 1).all(axis=1)]
        middle = (low + high) // 2
        samples.evaluate(middle)
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])


def _follow(samples: _Samples, cells: np.ndarray) -> np.ndarray:
    """Every cell [M, 3] crossed by the surface that meets `cells` [N, 3], all their corners evaluated."""
    count, crossed = samples.resolution, [np.empty((0, 3), int)]
    while len(cells):
        fresh = samples.evaluate(_corner_points(cells, 1, count))
        around = np.concatenate([(fresh[:, None] - _CORNERS).reshape(-1, 3), cells])
        cells = samples.distinct(around[((around >= 0) & (around < count - 1)).all(axis=1)])
        corners = samples.corners(cells, 1)
        mixed, partly = _mixed(corners), np.isnan(corners).any(axis=1)
        crossed.append(cells[mixed & ~partly])
        cells = cells[mixed & partly]
    return samples.distinct(np.concatenate(crossed))


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
) -> tuple[np.ndarray, np.ndarray]:
    """Triangle mesh of a field's zero.

    Args:
        field: signed distance, negative inside; called with at most `max_queries` points.
        box: [2, 3] lower and upper corner.
        resolution: samples per axis, ends included (cells are not cubic unless the box is).
        previous: [V, 3] vertices of a surface nearby (last frame's): the search starts there and
            follows the surface; where it touches nothing, the whole box is searched.
        largest_only: drop all but the largest connected piece.
        lipschitz: how much steeper than a distance the field may be.

    Returns:
        vertices [V, 3] float64 in the box's frame; triangles [F, 3] int32, outward.

    Raises:
        DataError: no surface in the box, or the field is not finite.

    Source: spec dphm 2; equals the dense grid's mesh (tests/geometry/test_surface.py).
    """
    from skimage.measure import marching_cubes

    box = np.asarray(box, np.float64)
    steps = (box[1] - box[0]) / (resolution - 1)
    samples = _Samples(field, box, resolution, max_queries)
    cells = np.empty((0, 3), int)
    if previous is not None:
        near = np.floor((previous - box[0]) / steps).astype(int)
        near = near[((near >= 0) & (near < resolution - 1)).all(axis=1)]
        cells = _follow(samples, samples.distinct(near))
    if len(cells) == 0:
        cells = _follow(samples, _search(samples, steps, lipschitz))
    if len(cells) == 0:
        raise DataError("the field has no surface in the box", mend="check the codes, or enlarge the box")
    mask = np.zeros(samples.shape, bool)
    mask[tuple((cells + 1).T)] = True  # marching_cubes looks a cell up at its upper corner
    volume = -np.nan_to_num(samples.values, nan=1.0)
    vertices, triangles, _, _ = marching_cubes(volume, 0.0, method="lorensen", mask=mask)
    vertices = vertices.astype(np.float64) * steps + box[0]
    triangles = triangles[:, ::-1].astype(np.int32)
    return largest_component(vertices, triangles) if largest_only else (vertices, triangles)
