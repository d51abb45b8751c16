"""Surfaces of a field that changes little from call to call: a talking head, one identity, many expressions.

One frame is the key: its values near the surface are known exactly. For the frames after it only the change of the
field since the key is asked, on a lattice four times as coarse; between those points the change is interpolated.
Where the change is not smooth enough for that (told by its middles and its second differences), where the key
knows nothing, and where a small error would show, the field itself is asked. When that is much of the surface, the
frame becomes the next key. Errors do not add up over frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.geometry.lattice import STEP, Field, Lattice, index_of, key_of
from davatar.geometry.marching_cubes import CORNERS, triangulate
from davatar.geometry.surface import MAX_BYTES, crossed_cells, largest_component

TRUSTED_SHARE = 0.4  # of the coarse cells; below it, asking everywhere anew is as cheap
_SHALLOW = 0.2  # change of the field along an edge, per length, under which its vertex is not interpolated
_CELLS = 64  # coarse cells per axis at most, so that their arrays do not grow with the resolution


@dataclass(frozen=True)
class _Key:
    """An exact frame: its values, and the coarse cells [C, 3] (in coarse units) around its surface."""

    lattice: Lattice
    stride: int
    cells: np.ndarray
    nodes: np.ndarray  # keys [P] of the cells' corners
    slots: np.ndarray  # [P] where they lie in a dense coarse array
    middles: np.ndarray  # keys [C]
    at_nodes: np.ndarray  # [P] the key's field there
    at_middles: np.ndarray  # [C]

    @property
    def across(self) -> int:
        """Corners of coarse cells per axis."""
        return -(-(self.lattice.resolution - 1) // self.stride) + 1


def _key_of_frame(lattice: Lattice, crossed: np.ndarray) -> _Key:
    stride = 4
    while (lattice.resolution - 1) / stride > _CELLS:
        stride *= 2
    whole = (lattice.resolution - 1) // stride  # cells cut short by the box's end are left out
    cells = np.unique(index_of(crossed) // stride, axis=0)
    cells = cells[(cells < whole).all(axis=1)]
    across = -(-(lattice.resolution - 1) // stride) + 1
    slots = np.unique(np.ravel_multi_index(tuple((cells[:, None] + CORNERS).reshape(-1, 3).T), (across,) * 3))
    nodes = key_of(stride * np.stack(np.unravel_index(slots, (across,) * 3), axis=-1))
    middles = key_of(stride * cells + stride // 2)
    return _Key(lattice, stride, cells, nodes, slots, middles, lattice.ask(nodes), lattice.ask(middles))


@dataclass(frozen=True)
class _Change:
    """How the field differs from the key's: at coarse corners (dense, NaN elsewhere), and where that is enough."""

    key: _Key
    at_nodes: np.ndarray  # [n, n, n]
    trusted: np.ndarray  # [n, n, n] bool, per coarse cell

    @classmethod
    def of(cls, key: _Key, lattice: Lattice, tolerance: float) -> _Change:
        shape = (key.across,) * 3
        change = np.full(shape, np.nan, np.float32)
        change.reshape(-1)[key.slots] = lattice.ask(key.nodes) - key.at_nodes
        corners = change[tuple(np.moveaxis(key.cells[:, None] + CORNERS, -1, 0))]
        error = np.abs(lattice.ask(key.middles) - key.at_middles - corners.mean(axis=1))
        bend = np.zeros(len(corners), np.float32)
        for axis in range(3):  # the same along each axis, so that opposite bends cannot hide each other
            second = np.zeros(shape, np.float32)
            inner = [slice(None)] * 3
            inner[axis] = slice(1, -1)
            second[tuple(inner)] = np.abs(np.nan_to_num(np.diff(change, 2, axis=axis)))
            bend += second[tuple(np.moveaxis(key.cells[:, None] + CORNERS, -1, 0))].max(axis=1) / 8
        trusted = np.zeros(shape, bool)
        trusted[tuple(key.cells.T)] = np.maximum(error, bend) <= tolerance
        return cls(key, change, trusted)

    @property
    def share(self) -> float:
        return float(self.trusted.sum()) / max(len(self.key.cells), 1)

    def predict(self, keys: np.ndarray) -> np.ndarray:
        """Values [N] at lattice points [N]; NaN where the field has to be asked."""
        index, stride = index_of(keys), self.key.stride
        cell = np.minimum(index // stride, self.key.across - 2)
        known = self.key.lattice.lookup(keys)
        known[~(np.isfinite(known) & self.trusted[tuple(cell.T)])] = np.nan
        good = np.flatnonzero(~np.isnan(known))
        cell, fraction = cell[good], (index[good] - stride * cell[good]).astype(np.float32) / stride
        for corner in CORNERS:
            weight = np.where(corner, fraction, 1 - fraction).prod(axis=1)
            known[good] += weight * self.at_nodes[tuple((cell + corner).T)]
        return known


class _Recalling(Lattice):
    """A lattice that asks the field only where the key and the change since do not tell the value."""

    change: _Change | None = None
    tolerance = 0.0

    def values_at(self, keys: np.ndarray, points: np.ndarray) -> np.ndarray:
        if self.change is None:
            return super().values_at(keys, points)
        values = self.change.predict(keys)
        ask = np.flatnonzero(~(np.abs(values) > 2 * self.tolerance))  # next to zero the sign could be wrong
        if len(ask):
            values[ask] = super().values_at(keys[ask], points[ask])
        return values

    def settle_shallow(self, cells: np.ndarray) -> None:
        """Ask the field at the ends of crossed edges along which it hardly changes: their vertices slide easily."""
        for axis in range(3):
            others = STEP[[c for c in range(3) if c != axis]]
            low = self.distinct(np.concatenate([cells, cells + others[0], cells + others[1], cells + others.sum()]))
            here, there = self.lookup(low), self.lookup(low + STEP[axis])
            shallow = ((here < 0) != (there < 0)) & (np.abs(here - there) < _SHALLOW * self.steps[axis])
            ends = self.distinct(np.concatenate([low[shallow], low[shallow] + STEP[axis]]))
            exact, place = self._asked_exactly(ends), self._place(ends)
            same = (exact < 0) == (self._values.reshape(-1)[place] < 0)  # else the cells' cases would not fit
            self._values.reshape(-1)[place[same]] = exact[same]

    def _asked_exactly(self, keys: np.ndarray) -> np.ndarray:
        change, self.change = self.change, None
        try:
            return self.ask(keys)
        finally:
            self.change = change


class SurfaceSequence:
    """
    Args:
        box, resolution, max_queries, largest_only, lipschitz, max_bytes: as in `extract_surface`; two lattices of
            `max_bytes` may be alive.
        tolerance: how far a vertex may be from the dense grid's along its lattice edge, box units; 0 asks the
            field everywhere. The promise holds as far as the change since the key is as smooth as its samples,
            every few lattice steps, say; and pieces are found as with `previous` there.
    """

    def __init__(
        self,
        box: np.ndarray,
        resolution: int,
        tolerance: float = 1e-4,
        max_queries: int = 16384,
        largest_only: bool = False,
        lipschitz: float = 1.2,
        max_bytes: int = MAX_BYTES,
    ):
        self.box, self.resolution, self.max_queries, self.max_bytes = box, resolution, max_queries, max_bytes
        self.tolerance, self.largest_only, self.lipschitz = tolerance, largest_only, lipschitz
        self.queries = 0  # of the last frame
        self._key: _Key | None = None
        self._vertices: np.ndarray | None = None

    def extract(self, field: Field) -> tuple[np.ndarray, np.ndarray]:
        """The next frame's surface; results and errors of `extract_surface`."""
        lattice = _Recalling(field, self.box, self.resolution, self.max_queries, self.max_bytes)
        if self._key is not None and self.tolerance > 0:
            lattice.tolerance = _SHALLOW * self.tolerance
            change = _Change.of(self._key, lattice, lattice.tolerance)
            lattice.change = change if change.share >= TRUSTED_SHARE else None
        cells, case = crossed_cells(lattice, self.lipschitz, self._vertices)
        if lattice.change is not None:
            lattice.settle_shallow(cells)
        elif self.tolerance > 0:
            self._key = _key_of_frame(lattice, cells)
        vertices, triangles = triangulate(lattice, cells, case)
        self._vertices, self.queries = vertices, lattice.queries
        return largest_component(vertices, triangles) if self.largest_only else (vertices, triangles)
