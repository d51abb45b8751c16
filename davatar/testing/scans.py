"""The battery of `headmodel.scans.ScanSource`: people, scans and points that training can rely on."""

from __future__ import annotations

import numpy as np

from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.scans import SampleCounts, ScanSamples, ScanSource
from davatar.testing.require import require, require_array

COUNTS = SampleCounts(face=40, front=8, outer=12, near=10, correspondences=14)
LARGEST = 4.0  # head-model units: no point of a head is farther from its middle


def check_scans(source: ScanSource) -> None:
    """Look at every scan's facts and at the points of the first, middle and last scan.

    Raises:
        VerificationError: the source breaks its contract.
    """
    require(isinstance(source.name, str) and bool(source.name), f"source.name is {source.name!r}, expected a word")
    people, scans = source.identities, source.scans
    require(len(people) > 0 and len(scans) > 0, "the source has no identity or no scan")
    require(len(set(people)) == len(people), "two identities have the same name")
    for number, scan in enumerate(scans):
        require(0 <= scan.identity < len(people), f"scan {number} is of identity {scan.identity} of {len(people)}")
        known = 0 <= scan.neutral < len(scans)
        require(known, f"scan {number} has its neutral at {scan.neutral}, there are {len(scans)} scans")
        other = scans[scan.neutral]
        require(other.neutral == scan.neutral, f"the neutral of scan {number} says another scan is its neutral")
    for number in sorted({0, len(scans) // 2, len(scans) - 1}):
        samples = source.samples(number, COUNTS, np.random.default_rng(number))
        _check_samples(samples, f"scan {number} ({scans[number].label})")
        again = source.samples(number, COUNTS, np.random.default_rng(number))
        for part, value in vars(samples).items():
            same = value is None or np.array_equal(value, getattr(again, part))
            require(same, f"scan {number}: {part} differs between two draws from equal generators")
        own = scans[number].neutral == number
        if own and samples.posed is not None:
            equal = np.allclose(samples.posed, samples.neutral, atol=1e-4)
            require(equal, f"scan {number} is neutral, and its correspondences move")


def _check_samples(samples: ScanSamples, what: str) -> None:
    sizes = {"surface": COUNTS.face + COUNTS.front, "outer": COUNTS.outer, "near": COUNTS.near}
    sizes |= {"surface_normal": sizes["surface"], "outer_normal": sizes["outer"]}
    for part, count in sizes.items():
        require_array(getattr(samples, part), (count, 3), np.float32, f"{what}: {part}")
    for part in ("surface_normal", "outer_normal"):
        length = np.linalg.norm(getattr(samples, part), axis=1)
        require(bool((np.abs(length - 1) < 0.01).all()), f"{what}: {part} is not of length 1")
    require((samples.posed is None) == (samples.neutral is None), f"{what}: posed without neutral, or the reverse")
    if samples.posed is not None:
        for part in ("posed", "neutral"):
            require_array(getattr(samples, part), (COUNTS.correspondences, 3), np.float32, f"{what}: {part}")
    if samples.anchors is not None:
        require_array(samples.anchors, MEAN_ANCHORS.shape, np.float32, f"{what}: anchors")
    for part, value in vars(samples).items():
        good = value is None or (bool(np.isfinite(value).all()) and float(np.abs(value).max()) < LARGEST)
        require(good, f"{what}: {part} holds values that are not finite or beyond {LARGEST:g} head-model units")
