"""Heads drawn from the morphable model, told as if they were registered scans (plugin `ict` of `davatar.scans`).

The neutral face is canonical here, as in the published data. Points lie on triangles that can be seen
in the pose at hand: no eye under a lid, no lip on a lip. Head-model units.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from davatar.headmodel.ict_codes import anchor_vertices
from davatar.headmodel.ict_samples import sample_expressions, sample_identities
from davatar.headmodel.ict_surface import seen_triangles, teaching_surface, view_directions
from davatar.headmodel.morphable import open_morphable, to_head_units
from davatar.headmodel.scans import SampleCounts, Scan, ScanSamples, ScanSettings
from davatar.headmodel.smooth_surface import SmoothSurface, Spots, draw_spots, triangle_areas

FACE_VERTICES = 6706  # the morphable model's first vertices are its face
NECK = -0.52  # below is the cut of the neck
FRONT_REACH = 0.2  # how far beside the face "front" goes
NEAR_NOISE = 0.05
CORRESPONDENCE_NOISES = (0.01, 0.002)  # standard deviations of the offset along the normal
VIEWS = 16  # directions a triangle may be seen from


class IctScans:
    name = "ict"

    def __init__(self, settings: ScanSettings):
        rng = np.random.default_rng([settings.seed, 20])
        count, each = settings.identities, settings.expressions
        self.who = sample_identities(count, rng)
        self.what = np.zeros((count, each, 53))
        self.what[:, 1:] = sample_expressions(count * (each - 1), rng).reshape(count, each - 1, 53)
        self.identities = tuple(f"ict {k}" for k in range(count))
        self.scans = tuple(
            Scan(k, f"ict {k}, expression {e}", neutral=k * each, supervise_hair=e == 0)
            for k in range(count)
            for e in range(each)
        )
        self._seen: dict[int, np.ndarray] = {}  # packed bits, 3 kB per scan; finding them is what costs

    def samples(self, scan: int, counts: SampleCounts, rng: np.random.Generator) -> ScanSamples:
        who, what = divmod(scan, self.what.shape[1])
        pair = np.stack([self.what[who, what], np.zeros(53)])
        posed, rest = teaching_surface().vertices(np.repeat(self.who[who : who + 1], 2, axis=0), pair)
        visible, areas, of = self._visible(scan, posed), _region_areas(), _smooth(posed)

        def spots(region: str, count: int) -> Spots:
            return draw_spots(areas[region] * visible, count, rng)

        face, front = spots("face", counts.face), spots("front", counts.front)
        on, normals = of.at(*(np.concatenate(both) for both in zip(face, front, strict=True)))
        outer, outer_normals = of.at(*spots("outer", counts.outer))
        near = of.at(*spots("head", counts.near))[0] + rng.normal(0, NEAR_NOISE, (counts.near, 3))
        matched = spots("face", counts.correspondences)
        along = rng.normal(0, rng.choice(CORRESPONDENCE_NOISES, counts.correspondences))[:, None]
        there, back = (points + along * away for points, away in (of.at(*matched), _smooth(rest).at(*matched)))
        arrays = (on, normals, outer, outer_normals, near, there, back, self._anchors(who))
        return ScanSamples(*(value.astype(np.float32) for value in arrays))

    def _visible(self, scan: int, vertices: np.ndarray) -> np.ndarray:
        """[F] bool: triangles that some direction sees in this scan."""
        triangles = teaching_surface().triangles
        if scan not in self._seen:
            self._seen[scan] = np.packbits(seen_triangles(vertices, triangles, view_directions(VIEWS)))
        return np.unpackbits(self._seen[scan], count=len(triangles)).astype(bool)

    def _anchors(self, who: int) -> np.ndarray:
        model = open_morphable()
        return to_head_units(model.vertices(self.who[who], np.zeros(53))[_anchor_vertices()])


def _smooth(vertices: np.ndarray) -> SmoothSurface:
    surface = teaching_surface()
    return SmoothSurface(vertices, surface.normals(vertices), surface.triangles)


@lru_cache(maxsize=1)
def _anchor_vertices() -> np.ndarray:
    return anchor_vertices(open_morphable())


@lru_cache(maxsize=1)
def _region_areas() -> dict[str, np.ndarray]:
    """name -> [F] area of the mean head's triangles in a region, 0 outside it."""
    surface = teaching_surface()
    corners = surface.neutral[surface.triangles]
    area = triangle_areas(surface.neutral, surface.triangles)
    above = ~surface.is_bag & (corners[..., 1].min(axis=1) > NECK)
    face = above & ((surface.vertex[surface.triangles] < FACE_VERTICES).all(axis=1) | surface.is_eye)
    centres = corners.mean(axis=1)
    away, _ = cKDTree(centres[face]).query(centres)
    parts = {"face": face, "front": above & ~face & (away < FRONT_REACH), "outer": above & ~face, "head": above}
    return {name: area * part for name, part in parts.items()}
