"""Training items of the published head-model training, from any source of scans (spec dphm 3.2).

An item is one scan, or its mirror image, which is another identity with rows of its own in the code
tables; now and then it is the person's neutral scan instead. Item k of epoch e is a function of
(seed, e, k) alone, so that a resumed training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from davatar.headmodel.ict_codes import PAIRS
from davatar.headmodel.published_losses import REGULARISED, REGULARISED_BOX, ScanBatch
from davatar.headmodel.scans import SampleCounts, ScanSamples, ScanSource

_MIRROR = np.array([-1, 1, 1], np.float32)


@dataclass(frozen=True)
class TrainingBatch:
    points: ScanBatch
    identity_rows: Tensor  # [B] int64
    expression_rows: Tensor  # [B] int64


def mirrored(samples: ScanSamples) -> ScanSamples:
    """The same scan with left and right exchanged: points, normals, anchors and which side an anchor is on."""
    flipped = {name: None if value is None else value * _MIRROR for name, value in samples.__dict__.items()}
    if flipped["anchors"] is not None:
        order = np.arange(len(flipped["anchors"]))
        order[: 2 * PAIRS] ^= 1
        flipped["anchors"] = flipped["anchors"][order]
    return ScanSamples(**flipped)


def unit_ball(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 3] points, even in the unit ball."""
    cosine, angle = rng.uniform(-1, 1, count), rng.uniform(0, 2 * np.pi, count)
    radius, sine = np.cbrt(rng.random(count)), np.sqrt(1 - cosine**2)
    return radius[:, None] * np.stack([sine * np.cos(angle), sine * np.sin(angle), cosine], axis=1)


class ScanItems(Dataset):
    """
    Args:
        neutral_share: probability that an item is the person's neutral scan instead.
        mirror: double the data by mirror images.
        anchors: [K, 3] stands in where a source knows no anchors.
    """

    def __init__(
        self,
        source: ScanSource,
        counts: SampleCounts,
        seed: int,
        anchors: np.ndarray,
        neutral_share: float = 0.1,
        mirror: bool = True,
    ):
        self.source, self.counts, self.seed, self.anchors = source, counts, seed, anchors
        self.neutral_share, self.copies = neutral_share, 2 if mirror else 1

    def __len__(self) -> int:
        return self.copies * len(self.source.scans)

    @property
    def identity_rows(self) -> int:
        return self.copies * len(self.source.identities)

    @property
    def expression_rows(self) -> int:
        return self.copies * len(self.source.scans)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        """Arrays of item `key` = (epoch, index), by the names of `ScanBatch`, and its two rows."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, 1, epoch, index])
        number, flip = divmod(index, self.copies)
        if rng.random() < self.neutral_share:
            number = self.source.scans[number].neutral
        scan = self.source.scans[number]
        samples = self.source.samples(number, self.counts, rng)
        samples = mirrored(samples) if flip else samples
        matched, anchored = samples.posed is not None, samples.anchors is not None
        none = np.zeros((self.counts.correspondences, 3))
        arrays = {
            "surface": samples.surface,
            "surface_normal": samples.surface_normal,
            "outer": samples.outer,
            "outer_normal": samples.outer_normal,
            "near": samples.near,
            "far": unit_ball(self.counts.far, rng),
            "regularised": rng.uniform(-REGULARISED_BOX, REGULARISED_BOX, (REGULARISED, 3)),
            "posed": samples.posed if matched else none,
            "neutral": samples.neutral if matched else none,
            "anchors": samples.anchors if anchored else self.anchors,
        }
        return {name: np.asarray(value, np.float32) for name, value in arrays.items()} | {
            "is_neutral": np.bool_(scan.neutral == number),
            "has_correspondences": np.bool_(matched),
            "has_anchors": np.bool_(anchored),
            "supervise_hair": np.bool_(scan.supervise_hair),
            "identity_rows": np.int64(flip * len(self.source.identities) + scan.identity),
            "expression_rows": np.int64(flip * len(self.source.scans) + number),
        }

    def steps_per_epoch(self, batch: int, processes: int = 1) -> int:
        """Whole batches of all processes together; a last part of a batch is left out."""
        return max(1, len(self) // (batch * processes))

    def batches(
        self, first: int, batch: int, process: int = 0, processes: int = 1, workers: int = 0
    ) -> Iterator[TrainingBatch]:
        """This process's batches from step `first` on, without end; every epoch's order is shuffled whole."""
        order = _Order(self, first, batch, process, processes)
        yield from DataLoader(self, batch_sampler=order, num_workers=workers, collate_fn=collated)


class _Order:
    """Keys of the items of each step, for ever: one loader, with warm workers, serves the whole training."""

    def __init__(self, items: ScanItems, first: int, batch: int, process: int, processes: int):
        self.items, self.first, self.batch = items, first, batch
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        whole, steps = self.batch * self.processes, self.items.steps_per_epoch(self.batch, self.processes)
        for epoch in count(self.first // steps):
            order = np.random.default_rng([self.items.seed, 0, epoch]).permutation(len(self.items))
            order = np.resize(order, max(len(order), whole))  # fewer items than a batch: some come twice
            for step in range(self.first % steps if epoch == self.first // steps else 0, steps):
                mine = order[step * whole + self.process * self.batch :][: self.batch]
                yield [(epoch, int(k)) for k in mine]


def collated(items: list[dict[str, np.ndarray]]) -> TrainingBatch:
    """Items one above the other."""
    joined = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    rows = [joined.pop(name) for name in ("identity_rows", "expression_rows")]
    return TrainingBatch(ScanBatch(**joined), *rows)
