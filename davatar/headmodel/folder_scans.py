"""A folder of meshes as scans (plugin `folder` of `davatar.scans`).

`<person>/<expression>.ply|.obj`, or meshes side by side, each a person of their own. A person's
neutral expression is the mesh called `neutral`, else the first by name. Meshes of one topology are
taken as registered: they give correspondences and anchors; any other mesh is learnt from by its
surface alone. Meshes must already have the head model's axes and place; `data.unit` scales them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from davatar.core.errors import DataError, MissingError
from davatar.geometry.mesh import vertex_normals
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.scans import SampleCounts, Scan, ScanSamples, ScanSettings
from davatar.headmodel.smooth_surface import SmoothSurface, draw_spots, triangle_areas

SUFFIXES = (".ply", ".obj")
KEPT = 64  # meshes in memory
SMALLEST, LARGEST = 0.5, 5.0  # head-model units: a head with shoulders or without is in between
NEAR_NOISE = 0.05
CORRESPONDENCE_NOISES = (0.01, 0.002)  # standard deviations of the offset along the normal
FACE = np.array([0.0, -0.05, 0.1])  # registered points nearer than REACH to it are matched: face, not scalp or chest
REACH = 0.45


class FolderScans:
    """
    Raises:
        MissingError: no such folder, or no mesh in it.
        DataError: a mesh is unreadable, empty or not of a head's size.
    """

    name = "folder"

    def __init__(self, settings: ScanSettings):
        self.root, self.unit = Path(settings.path), settings.unit
        people = _people(self.root) if settings.path else {}
        if not people:
            mend = "give --set data.path=FOLDER with <person>/<expression>.ply or .obj"
            raise MissingError("holds no mesh", file=self.root, mend=mend)
        self._files: list[Path] = []
        scans: list[Scan] = []
        for row, files in enumerate(people.values()):
            neutral = next((k for k, file in enumerate(files) if file.stem.lower() == "neutral"), 0)
            first = len(scans)
            for k, file in enumerate(files):
                scans.append(Scan(row, str(file.relative_to(self.root)), first + neutral, supervise_hair=k == neutral))
                self._files.append(file)
        self.identities, self.scans = tuple(people), tuple(scans)
        self._kept: OrderedDict[int, SmoothSurface] = OrderedDict()
        self._topology = [_topology(self._surface(k).triangles) for k in range(len(scans))]
        ((common, many),) = Counter(self._topology).most_common(1)
        self._registered = [many > 1 and topology == common for topology in self._topology]
        self._anchor_vertices = self._nearest_to_anchors()

    def _surface(self, scan: int) -> SmoothSurface:
        if scan not in self._kept:
            self._kept[scan] = _read(self._files[scan], self.unit)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[scan]

    def _nearest_to_anchors(self) -> np.ndarray | None:
        """[K] vertices of the common topology at the mean anchors, judged on one registered neutral face."""
        found = [k for k, scan in enumerate(self.scans) if scan.neutral == k and self._registered[k]]
        if not found:
            return None
        return cKDTree(self._surface(found[0]).vertices).query(MEAN_ANCHORS)[1]

    def samples(self, scan: int, counts: SampleCounts, rng: np.random.Generator) -> ScanSamples:
        surface, number = self._surface(scan), self.scans[scan].neutral
        areas = triangle_areas(surface.vertices, surface.triangles)

        def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
            return surface.at(*draw_spots(areas, count, rng))

        (on, normals), (outer, outer_normals) = drawn(counts.face + counts.front), drawn(counts.outer)
        near = drawn(counts.near)[0] + rng.normal(0, NEAR_NOISE, (counts.near, 3))
        there = back = anchors = None
        if self._registered[number]:
            anchors = self._surface(number).vertices[self._anchor_vertices].astype(np.float32)
        if self._registered[number] and self._registered[scan]:
            rest = self._surface(number)
            close = np.linalg.norm(rest.vertices[rest.triangles[:, 0]] - FACE, axis=1) < REACH
            spots = draw_spots(areas * close if close.any() else areas, counts.correspondences, rng)
            along = rng.normal(0, rng.choice(CORRESPONDENCE_NOISES, counts.correspondences))[:, None]
            there, back = ((p + along * n).astype(np.float32) for p, n in (surface.at(*spots), rest.at(*spots)))
        parts = (value.astype(np.float32) for value in (on, normals, outer, outer_normals, near))
        return ScanSamples(*parts, there, back, anchors)


def _people(root: Path) -> dict[str, list[Path]]:
    """Person -> meshes, by name; empty where there is none."""
    if not root.is_dir():
        return {}

    def meshes(folder: Path) -> list[Path]:
        return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]

    found = {folder.name: meshes(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    return {name: files for name, files in found.items() if files} | {path.stem: [path] for path in meshes(root)}


def _topology(triangles: np.ndarray) -> tuple[int, int]:
    return len(triangles), hash(triangles.tobytes())


def _read(path: Path, unit: float) -> SmoothSurface:
    import trimesh

    try:
        mesh = trimesh.load(path, process=False, force="mesh")
        vertices, triangles = np.asarray(mesh.vertices, np.float64) * unit, np.asarray(mesh.faces, np.int64)
    except Exception as error:  # trimesh's readers raise whatever a broken file leads them to
        raise DataError(f"is not a readable mesh: {error}", file=path, mend="export it again") from error
    if not len(triangles) or not np.isfinite(vertices).all():
        raise DataError("holds no triangles, or vertices that are not finite", file=path, mend="export it again")
    size = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    if not SMALLEST < size < LARGEST:
        raise DataError(
            f"is {250 * size:.3g} mm large at data.unit={unit:g}, which no head is",
            file=path,
            mend="give data.unit, head-model units (250 mm) per unit of the files: 0.004 for mm, 4 for m",
        )
    return SmoothSurface(vertices, vertex_normals(vertices, triangles), triangles)
