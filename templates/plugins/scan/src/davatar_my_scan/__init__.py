"""my-scan: neutral faces kept as points, one `<person>.npz` each.

It holds `points` [N, 3] in head-model units (1 = 250 mm; x to the subject's left, y up, z out of the
face) and outward unit `normals` [N, 3]. The contract is `davatar.headmodel.scans.ScanSource`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.headmodel.scans import SampleCounts, Scan, ScanSamples, ScanSettings

NEAR_NOISE = 0.05  # head-model units


class MyScan:
    name = "my-scan"

    def __init__(self, settings: ScanSettings):
        self._files = sorted(Path(settings.path).glob("*.npz")) if settings.path else []
        if not self._files:
            raise MissingError("holds no .npz of points", file=settings.path, mend="give --set data.path=FOLDER")
        self.identities = tuple(file.stem for file in self._files)
        self.scans = tuple(Scan(k, file.stem, k, supervise_hair=True) for k, file in enumerate(self._files))

    def samples(self, scan: int, counts: SampleCounts, rng: np.random.Generator) -> ScanSamples:
        points, normals = _read(self._files[scan])

        def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
            pick = rng.integers(len(points), size=count)
            return points[pick], normals[pick]

        (surface, along), (outer, outer_along) = drawn(counts.face + counts.front), drawn(counts.outer)
        near = drawn(counts.near)[0] + rng.normal(0, NEAR_NOISE, (counts.near, 3)).astype(np.float32)
        return ScanSamples(surface, along, outer, outer_along, near, posed=None, neutral=None, anchors=None)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(file) as arrays:
            return arrays["points"].astype(np.float32), arrays["normals"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not a readable scan: {error}", file=file, mend="export it again") from error
