"""Scans to train a head model from, whatever they are kept as: the contract of the plugin group `davatar.scans`.

An entry point names a callable that takes a `ScanSettings` and returns a `ScanSource`; built in are
`nphm` (the published data set), `ict` (heads drawn from the shipped morphable model) and `folder`
(meshes). A source draws points of one scan; mirroring, far points, rows of code tables and batches
are `scan_items`' business. Head-model units (1 unit = 250 mm), axes of the head model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from davatar.core import plugins
from davatar.core.errors import DataError

GROUP = "davatar.scans"


@dataclass(frozen=True)
class ScanSettings:
    """Where scans come from; a source uses what concerns it."""

    source: str = "nphm"
    """A plugin of the group `davatar.scans`: nphm, ict, folder, ..."""
    path: str = ""
    """Folder of the data set (nphm, folder)."""
    split: Literal["train", "eval", "test"] = "train"
    """Whose scans (nphm)."""
    mouth: Literal["closed", "open"] = "closed"
    """Which neutral expression is canonical (nphm)."""
    neutrals: str = ""
    """JSON file, subject -> neutral expression (nphm); default: neutrals_closed.json in the data set."""
    unit: float = 1.0
    """Head-model units (250 mm) per unit of the files (folder); 0.004 for millimetres, 4 for metres."""
    identities: int = 200
    """How many are drawn (ict)."""
    expressions: int = 20
    """Scans per identity, the neutral one included (ict)."""
    seed: int = 0
    """Of what is drawn (ict)."""


@dataclass(frozen=True)
class SampleCounts:
    """Points of one training item (spec dphm 3.2)."""

    face: int = 750
    front: int = 250
    """Beside the face: ears, front of the neck; joined with the face points."""
    outer: int = 250
    near: int = 250
    far: int = 125
    correspondences: int = 250


@dataclass(frozen=True)
class Scan:
    identity: int  # index into ScanSource.identities
    label: str  # for messages
    neutral: int  # index into ScanSource.scans of the same person's neutral expression; its own if it is neutral
    supervise_hair: bool = False  # its outer points may be learnt: neutral, or first of a hairstyle


@dataclass(frozen=True)
class ScanSamples:
    """Points of one scan, float32."""

    surface: np.ndarray  # [face + front, 3]
    surface_normal: np.ndarray  # [face + front, 3] unit, outward
    outer: np.ndarray  # [outer, 3] surface outside the face: hair, neck
    outer_normal: np.ndarray  # [outer, 3]
    near: np.ndarray  # [near, 3] surface points with noise of 0.05 units
    posed: np.ndarray | None  # [correspondences, 3] around the face; None without registration
    neutral: np.ndarray | None  # [correspondences, 3] the same points in the person's neutral expression
    anchors: np.ndarray | None  # [K, 3] anchors in the neutral expression; None where nobody knows them


class ScanSource(Protocol):
    """Scans of several people; constant memory, random access."""

    name: str
    identities: tuple[str, ...]  # who; a person with two hairstyles is two
    scans: tuple[Scan, ...]

    def samples(self, scan: int, counts: SampleCounts, rng: np.random.Generator) -> ScanSamples:
        """Points of `scans[scan]`; which ones depends only on the arguments."""
        ...


def open_scans(settings: ScanSettings) -> ScanSource:
    """The source that `settings.source` names.

    Raises:
        UsageError: no plugin has that name.
        DataError, MissingError: the data set is absent or unreadable.
    """
    source = plugins.load(GROUP, settings.source)(settings)
    if not source.scans:
        raise DataError("holds no usable scan", file=settings.path or settings.source, mend="see `data.split`")
    return source
