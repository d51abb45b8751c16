"""Values of a field on a cubic lattice, kept only where somebody asked.

A lattice point is one int64 key, 20 bits per axis, so that a neighbour is an addition. Values lie in pages of
8 x 8 x 8 points; a table says which page a place has, and places nobody touched share one page of NaN. So
memory grows with what was asked, not with the cube of the resolution, and is bounded by `max_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from davatar.core.errors import DataError, ResourceError, UsageError

Field = Callable[[np.ndarray], np.ndarray]  # [N, 3] points -> [N] signed distances
STEP = np.array([1 << 40, 1 << 20, 1])  # key of one step along x, y, z
_MASK = (1 << 20) - 1
LARGEST = 2048  # samples per axis; the page table is the only thing that grows with the cube: 64 MiB here


def key_of(index: np.ndarray) -> np.ndarray:
    """Keys [...] of lattice points [..., 3]."""
    return np.asarray(index, np.int64) @ STEP


def index_of(keys: np.ndarray) -> np.ndarray:
    """Lattice points [..., 3] of keys [...]."""
    return np.stack([keys >> 40, (keys >> 20) & _MASK, keys & _MASK], axis=-1)


class Lattice:
    """
    Args:
        field: signed distance; called with at most `max_queries` points.
        box: [2, 3] lower and upper corner.
        resolution: samples per axis, ends included.
        max_queries: points per call of the field.
        max_bytes: for all pages together.

    Raises:
        UsageError: fewer than 2 or more than `LARGEST` samples per axis.
    """

    def __init__(self, field: Field, box: np.ndarray, resolution: int, max_queries: int, max_bytes: int):
        if not 2 <= resolution <= LARGEST:
            raise UsageError(f"a resolution of {resolution} samples per axis, expected 2 to {LARGEST}")
        self.field, self.max_queries, self.max_bytes = field, max_queries, max_bytes
        self.box, self.resolution = np.asarray(box, np.float64), resolution
        self.steps = (self.box[1] - self.box[0]) / (resolution - 1)
        self.axes = [np.linspace(self.box[0, c], self.box[1, c], resolution) for c in range(3)]
        self._across = (resolution + 7) // 8
        self._table = np.zeros(self._across**3, np.int32)
        self._values = np.full((1, 512), np.nan, np.float32)
        self._marks = np.zeros((1, 512), np.uint8)  # bit 0: `distinct` is counting it; bit 1: `claim`ed
        self._homes = np.zeros(1, np.int64)  # key of each page's first point
        self._used = 1
        self.queries = 0  # how often the field was asked

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._marks.nbytes + self._homes.nbytes

    def _page(self, keys: np.ndarray) -> np.ndarray:
        return ((keys >> 43) * self._across + ((keys >> 23) & (_MASK >> 3))) * self._across + ((keys & _MASK) >> 3)

    def _place(self, keys: np.ndarray, create: bool = False) -> np.ndarray:
        """Where keys lie in the pages laid end to end; places without a page lie in page 0."""
        page = self._page(keys)
        number = self._table[page]
        if create and not number.all():
            fresh = np.unique(page[number == 0])
            self._grow(len(fresh))
            self._table[fresh] = np.arange(self._used, self._used + len(fresh))
            corner = np.stack(np.unravel_index(fresh, (self._across,) * 3), axis=-1)
            self._homes[self._used : self._used + len(fresh)] = key_of(8 * corner)
            self._used += len(fresh)
            number = self._table[page]
        return (number.astype(np.int64) << 9) | ((keys >> 34) & 448) | ((keys >> 17) & 56) | (keys & 7)

    def _grow(self, more: int) -> None:
        needed, have = self._used + more, len(self._values)
        if needed <= have:
            return
        each = 512 * (self._values.itemsize + 1) + 8
        most = self.max_bytes // each
        if needed > most:
            raise ResourceError(
                f"the surface at {self.resolution} samples per axis takes more than the {self.max_bytes / 2**20:.0f} "
                "MiB it was given",
                mend="give it more memory, or a lower resolution",
            )
        size = min(max(needed, have + have // 2, 64), most)
        for name, empty in (("_values", np.nan), ("_marks", 0), ("_homes", 0)):
            old = getattr(self, name)
            new = np.full((size, *old.shape[1:]), empty, old.dtype)
            new[: self._used] = old[: self._used]
            setattr(self, name, new)

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """Values [...] at keys [...]: NaN where unknown, +-inf where only the sign is known."""
        return self._values.reshape(-1)[self._place(keys)]

    def ask(self, keys: np.ndarray) -> np.ndarray:
        """The field [N] at keys [N], in bounded calls; nothing is kept.

        Raises:
            DataError: a value is not finite.
        """
        found = np.empty(len(keys), np.float32)
        for start in range(0, len(keys), self.max_queries):
            part = keys[start : start + self.max_queries]
            index = index_of(part)
            points = np.stack([axis[index[:, c]] for c, axis in enumerate(self.axes)], axis=1)
            found[start : start + len(part)] = self.values_at(part, points)
        if not np.isfinite(found).all():
            raise DataError("the field is not finite everywhere in the box", mend="check the codes")
        return found

    def values_at(self, keys: np.ndarray, points: np.ndarray) -> np.ndarray:
        self.queries += len(points)
        return np.asarray(self.field(points), np.float32)

    def evaluate(self, keys: np.ndarray) -> None:
        """Make the values at keys [N] known; each point is asked at most once, a known sign does not suffice."""
        keys = self.distinct(keys[~np.isfinite(self.lookup(keys))])
        self._values.reshape(-1)[self._place(keys)] = self.ask(keys)

    def assume(self, keys: np.ndarray, sign: np.ndarray) -> None:
        """Note the sign [N] at keys [N] where nothing is known."""
        place = self._place(keys, create=True)
        unknown = np.isnan(self._values.reshape(-1)[place])
        self._values.reshape(-1)[place[unknown]] = np.where(sign[unknown] < 0, -np.inf, np.inf)

    def distinct(self, keys: np.ndarray) -> np.ndarray:
        """Each of keys [N] once, page by page (marking is faster than sorting)."""
        place = self._place(keys, create=True)
        marks = self._marks.reshape(-1)
        marks[place] |= 1
        pages = np.flatnonzero(np.bincount(place >> 9, minlength=1))
        which, local = np.nonzero(self._marks[pages] & 1)
        self._marks[pages] &= 254
        at = np.stack([local >> 6, (local >> 3) & 7, local & 7], axis=-1)
        return self._homes[pages[which]] + key_of(at)

    def claim(self, keys: np.ndarray) -> np.ndarray:
        """Those of distinct keys [N] that were never claimed before."""
        marks, place = self._marks.reshape(-1), self._place(keys, create=True)
        fresh = (marks[place] & 2) == 0
        marks[place[fresh]] |= 2
        return keys[fresh]
