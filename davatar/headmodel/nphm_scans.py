"""The published NPHM data set with its sampled training fields (plugin `nphm` of `davatar.scans`; spec dphm 3.1, 3.2).

Layout, below the data set's folder: `DATA/<subject>/<expression>/registration.ply`,
`SUPERVISION_IDENTITY/<subject>/` with 200 splits of four sets per expression in either spelling, and
`SUPERVISION_DEFORMATION_CLOSED|OPEN/<subject>/<expression>/corresp_<r>.npy`. Head-model units.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json
from davatar.headmodel.scans import SampleCounts, Scan, ScanSamples, ScanSettings

FIELD_SPLITS, CORRESPONDENCE_SPLITS = 200, 100
SPELLINGS = {
    "face": ("{e}_{r}_face.npy", "face_{e}_{r}.npy"),
    "outer": ("{e}_{r}_non_face.npy", "non_face_{e}_{r}.npy"),
    "near": ("{e}_{r}_off_surface.npy", "off_{e}_{r}.npy"),
    "front": ("{e}_{r}_def_region.npy", "def_region_{e}_{r}.npy"),
}
EVAL = (199, 286, *range(290, 296), 297, 298)
TEST = (99, 283, 143, 38, 241, 236, 276, 202, 98, 254, 204, 163, 267, 194, 20, 23, 209, 105, 186, 343, 341, 363, 350)
EXCLUDED = {
    261: (19,), 88: (19,), 79: (16, 17, 18, 19, 20), 100: (0,), 125: (1, 4, 5), 106: (20,), 362: (20,), 363: (1,),
    345: (12,), 360: (6, 14), 85: (2,), 292: (9,), 298: (23, 24, 25, 26),
}  # fmt: skip
"""Subject -> expressions whose scans are spoiled."""
HAIRSTYLES = {
    402: (0,), 405: (1,), 28: (7, 13), 46: (14,), 73: (1, 19), 74: (1,), 84: (4, 8), 108: (14,), 125: (4,), 147: (1,),
    194: (3,), 195: (0,), 244: (0, 1), 316: (0, 2), 389: (0,), 452: (0,), 476: (0, 7), 501: (22,), 425: (0,),
}  # fmt: skip
"""Subject -> last expression of each earlier hairstyle (spec 9.7)."""
HAIRSTYLE_STEP = 10_000  # a later hairstyle is identity subject + 10000 j
ANCHOR_VERTICES = (
    2712, 1579, 3485, 3756, 3430, 3659, 2711, 1575, 338, 27, 3631, 3832, 2437, 1175, 3092, 2057, 3422, 3649, 3162,
    2143, 617, 67, 3172, 2160, 2966, 1888, 1470, 2607, 1896, 2981, 3332, 3231, 3494, 3526, 3506, 3543, 3516, 3786, 3404,
)  # fmt: skip
"""Vertices of the registered template at the anchors (spec 9.1)."""


def hairstyle(subject: int, expression: int) -> int:
    """0 for the first hairstyle of a subject, 1 for the next, ..."""
    return sum(expression > last for last in HAIRSTYLES.get(subject, ()))


class NphmScans:
    """
    Raises:
        MissingError: no data set in that folder.
        DataError: it lacks what training needs.
    """

    name = "nphm"

    def __init__(self, settings: ScanSettings):
        self.root, self.mouth = Path(settings.path), settings.mouth
        self.data = self.root / "DATA" if (self.root / "DATA").is_dir() else self.root
        self.fields = self.root / "SUPERVISION_IDENTITY"
        if not settings.path or not self.fields.is_dir():
            raise MissingError(
                "no NPHM data set with sampled fields there",
                file=self.fields,
                mend="give --set data.path=FOLDER; data.source=ict needs no data set",
            )
        neutral = _neutrals(self.root, settings)
        self._where: list[tuple[int, int]] = []  # subject and expression of every scan
        scans: list[Scan] = []
        numbers: OrderedDict[int, int] = OrderedDict()  # identity number -> row
        for subject in self._subjects(settings.split):
            if not self._has_field(subject, at := neutral.get(subject, -1)):
                continue
            found = [e for e in self._expressions(subject) if e == at or self._has_field(subject, e)]
            first, seen = len(scans), set()
            for expression in found:
                who = subject + HAIRSTYLE_STEP * hairstyle(subject, expression)
                row = numbers.setdefault(who, len(numbers))
                own = expression == at
                label = f"{subject:03d}/{expression:03d}"
                scans.append(Scan(row, label, first + found.index(at), supervise_hair=own or who not in seen))
                self._where.append((subject, expression))
                seen.add(who)
        self.identities, self.scans = tuple(str(number) for number in numbers), tuple(scans)
        self._anchors: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def _subjects(self, split: str) -> list[int]:
        everyone = sorted(int(p.name) for p in self.fields.iterdir() if p.is_dir() and p.name.isdigit())
        held = {"eval": EVAL, "test": TEST}
        return [s for s in everyone if (s in held[split] if split in held else s not in EVAL and s not in TEST)]

    def _expressions(self, subject: int) -> list[int]:
        folder = self.data / f"{subject:03d}"
        found = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
        return [e for e in found if e not in EXCLUDED.get(subject, ())]

    def _field(self, subject: int, expression: int, split: int, name: str) -> Path | None:
        folder = self.fields / f"{subject:03d}"
        tried = (folder / spelling.format(e=expression, r=split) for spelling in SPELLINGS[name])
        return next((path for path in tried if path.is_file()), None)

    def _has_field(self, subject: int, expression: int) -> bool:
        """Whether a scan was sampled: split 99 of its face tells (spec 3.2)."""
        return expression in self._expressions(subject) and self._field(subject, expression, 99, "face") is not None

    def samples(self, scan: int, counts: SampleCounts, rng: np.random.Generator) -> ScanSamples:
        subject, expression = self._where[scan]
        wanted = {"face": counts.face, "front": counts.front, "outer": counts.outer, "near": counts.near}
        rows = {}
        for name, count in wanted.items():
            split = int(rng.integers(FIELD_SPLITS))
            path = self._field(subject, expression, split, name)
            if path is None:
                spelt = " or ".join(s.format(e=expression, r=split) for s in SPELLINGS[name])
                raise DataError(f"lacks {spelt}", file=self.fields / f"{subject:03d}", mend="sample the fields again")
            rows[name] = _some_rows(path, count, 6, rng)
        surface = np.concatenate([rows["face"], rows["front"]])
        pairs = self._correspondences(subject, expression, counts.correspondences, rng)
        return ScanSamples(
            surface=surface[:, :3],
            surface_normal=surface[:, 3:6],
            outer=rows["outer"][:, :3],
            outer_normal=rows["outer"][:, 3:6],
            near=rows["near"][:, :3],
            posed=None if pairs is None else pairs[:, 3:6],
            neutral=None if pairs is None else pairs[:, :3],
            anchors=self._true_anchors(*self._where[self.scans[scan].neutral]),
        )

    def _correspondences(
        self, subject: int, expression: int, count: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Rows [count, 6] of neutral and posed points, or None for a scan without registration."""
        folder = self.root / f"SUPERVISION_DEFORMATION_{self.mouth.upper()}" / f"{subject:03d}" / f"{expression:03d}"
        path = folder / f"corresp_{int(rng.integers(CORRESPONDENCE_SPLITS))}.npy"
        return _some_rows(path, count, 6, rng) if path.is_file() else None

    def _true_anchors(self, subject: int, expression: int) -> np.ndarray | None:
        """[39, 3] anchors on the registered neutral face, or None without it."""
        key = subject, expression
        if key not in self._anchors:
            path = self.data / f"{subject:03d}" / f"{expression:03d}" / "registration.ply"
            self._anchors[key] = _template_anchors(path) if path.is_file() else None
        return self._anchors[key]


def _neutrals(root: Path, settings: ScanSettings) -> dict[int, int]:
    """Subject -> neutral expression."""
    path = Path(settings.neutrals) if settings.neutrals else root / f"neutrals_{settings.mouth}.json"
    if not path.is_file():
        raise MissingError(
            "the map from subject to neutral expression is missing",
            file=path,
            mend="give --set data.neutrals=FILE.json, a JSON object of subject and expression number, -1 for none",
        )
    try:
        return {int(subject): int(expression) for subject, expression in read_json(path).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"is no map from subject to expression: {error}", file=path) from error


def _some_rows(path: Path, count: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """[count, columns] finite rows of a file, drawn with replacement; only the pages they lie on are read."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.ndim != 2 or stored.shape[1] < columns or not len(stored):
            raise ValueError(f"its shape is {list(stored.shape)}, expected at least {columns} columns")
        rows = np.asarray(stored[np.sort(rng.integers(len(stored), size=count)), :columns], np.float32)
        if not np.isfinite(rows).all():
            whole = np.asarray(stored[:, :columns], np.float32)
            whole = whole[np.isfinite(whole).all(axis=1)]
            if not len(whole):
                raise ValueError("no row is finite")
            rows = whole[rng.integers(len(whole), size=count)]
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"is no readable set of samples: {error}", file=path, mend="sample it again") from error
    return rows


def _template_anchors(path: Path) -> np.ndarray:
    import trimesh

    try:
        vertices = np.asarray(trimesh.load(path, process=False, force="mesh").vertices, np.float32)
        return vertices[list(ANCHOR_VERTICES)]
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"is no registered template: {error}", file=path) from error
