"""What is evaluated: an avatar with the held-out pictures it is compared with. Runs of ours, and published archives.

A subject paints samples and reads their true pictures; scores, baselines and the report do not see which kind it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from davatar.avatar.computing import Computing
from davatar.avatar.frames import reference_rotation, sample_maps
from davatar.avatar.model import Avatar, open_avatar
from davatar.avatar.published import ImageBatch, PublishedAvatar
from davatar.avatar.published_checkpoint import open_published
from davatar.checks.avatar_score import Source, TruePicture
from davatar.core import paths
from davatar.core.content import hash_path
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.core.files import read_json
from davatar.core.runs import Run
from davatar.dataset.conditions import NAMES, condition
from davatar.dataset.crop import Crop, choose_crop, crop_and_resize
from davatar.dataset.layout import SampleKey, channel_path, resolve_version
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.rendering_data import RenderingData
from davatar.dataset.splits import SplitSettings
from davatar.dataset.torso import read_segmentation, torso_mask
from davatar.geometry.camera import Camera

PUBLISHED_SEED = 181998  # of the latents that every evaluated frame starts from
SHIPPED_STEPS = {"tiny": 1, "published": 20}


@dataclass(frozen=True)
class ArchivePicture:
    """One published sample in its evaluation square; fields as in `TruePicture`."""

    key: SampleKey
    image: np.ndarray
    alpha: np.ndarray
    codes: np.ndarray
    head_to_world: np.ndarray
    camera: Camera
    rendered: np.ndarray  # [9, S, S] float32 conditions, -1..1
    mask: np.ndarray  # [S, S] bool
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Subject:
    data: RenderingData
    source: Source
    paint: Callable[[Sequence[TruePicture]], np.ndarray]  # -> [B, S, S, 3] uint8
    splits: dict[str, list[SampleKey]]
    step: int
    steps: int  # of sampling
    usual_steps: int  # what `steps` is when nobody asks
    sampler: str
    at_once: int  # frames painted together
    state: dict[str, Any]  # what decides the pictures
    missing: Callable[[Sequence[SampleKey]], list[SampleKey]]  # those without a photograph
    mend: str  # where photographs come from
    crop: Callable[[SampleKey], Crop] | None = None  # of published samples


def own_subject(
    run: Run,
    data: RenderingData,
    base: str | None,
    checkpoint: int | None,
    steps: int | None,
    sampler: str | None,
    computing: Computing,
) -> Subject:
    """A run of ours on a data set of ours; `base`: the frozen base, if not the one that its settings name.

    Raises:
        MissingError: the run has no such checkpoint. UsageError: a sampler that the small avatar does not know.
    """
    avatar, trained, step = open_avatar(run, checkpoint, computing.device, base)
    computed = computing.prepare(avatar, trained.precision)
    published = isinstance(avatar, PublishedAvatar)
    if not published and sampler not in (None, "ddim"):
        raise UsageError(f"the small avatar has no sampler {sampler!r}", mend="leave it out: it uses ddim")
    sampler = sampler or ("ddpm" if published else "ddim")
    usual = SHIPPED_STEPS["published" if published else "tiny"]
    steps = steps or usual
    extra = {"sampler": sampler} if published else {}
    noise = avatar.noise(np.random.default_rng(0))

    def paint(samples: Sequence[TruePicture]) -> np.ndarray:
        frames = [sample_maps(s, reference_rotation(data, s.key), avatar.resolution, avatar.told) for s in samples]
        return painted(avatar, avatar.batch(frames), noise, steps, **extra)

    return Subject(
        data=data,
        source=data,
        paint=paint,
        splits=data.splits(),
        step=step,
        steps=steps,
        usual_steps=usual,
        sampler=sampler,
        at_once=8,
        state={
            "checkpoint": hash_path(run.checkpoints()[step], "*.safetensors"),
            "data": hash_path(data.path, "*.json"),
            "steps": steps,
            "sampler": sampler,
            **computed,
        },
        missing=lambda keys: [key for key in keys if not channel_path(data.path, key, "images").is_file()],
        mend="rasterize a recording with colour pictures",
    )


def painted(avatar: Avatar, batch: Any, noise: torch.Tensor, steps: int, **extra: Any) -> np.ndarray:
    """[B, S, S, 3] uint8"""
    device = next(avatar.parameters()).device
    with torch.no_grad():
        pictures = avatar.render(batch.to(device), noise.to(device), steps, **extra)
    return (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def archive_subject(
    run: Run,
    data: str | Path | None,
    raw: str | Path | None,
    base: str | None,
    checkpoint: int | None,
    steps: int | None,
    sampler: str | None,
    without: Sequence[str],
    computing: Computing,
) -> Subject:
    """A published archive on the published data (spec diffusion-avatars 9.2).

    Args:
        data: the renderings; None = the version that the archive names, in the data directory.
        raw: the folder of raw recordings; None = `nersemble` in the data directory.
        base: the frozen base, if not the one that the archive names.
        without: "neck", "torso", "background": left out of the foreground mask.
        computing: with `compat` samplers as published.

    Raises:
        MissingError: archive, base, renderings or recordings are absent.
    """
    config = read_json(run.folder / "dataset_config.json")
    path = Path(data) if data else resolve_version(config["dataset_version"], paths.data_dir() / "rendering_data")
    raw = Path(raw) if raw else paths.data_dir() / "nersemble"
    if not raw.is_dir():
        raise MissingError("the raw recordings are not there", file=raw, mend="davatar data fetch, or name them: --raw")
    data = RenderingData(path, raw)
    avatar, step = open_published(run.folder, checkpoint, base)
    computed, compat = computing.prepare(avatar), computing.compat
    steps, sampler = steps or SHIPPED_STEPS["published"], sampler or "ddpm"
    pictures = ArchivePictures(data, raw, avatar.resolution, config, without, compat)
    noise = torch.randn((1, *avatar.latent_shape), generator=torch.Generator().manual_seed(PUBLISHED_SEED))
    extra = {"sampler": sampler, "compat": compat}

    def paint(samples: Sequence[ArchivePicture]) -> np.ndarray:
        batch = ImageBatch(
            rendered=torch.from_numpy(np.stack([sample.rendered for sample in samples])),
            mask=torch.from_numpy(np.stack([sample.mask for sample in samples])),
            expression=torch.from_numpy(np.stack([sample.codes for sample in samples])),
            participant=torch.zeros(len(samples), dtype=torch.int64),
            image=None,
        )
        return painted(avatar, batch, noise, steps, **extra)

    return Subject(
        data=data,
        source=pictures,
        paint=paint,
        splits=data.splits(archive_splits(config)),
        step=step,
        steps=steps,
        usual_steps=SHIPPED_STEPS["published"],
        sampler=sampler,
        at_once=1 if compat else 4,  # the published script's noise depends on the place in the batch
        state={
            "checkpoint": f"{run.name} {step}",
            "data": hash_path(data.path, "*.json"),
            "steps": steps,
            "sampler": sampler,
            "compat": compat,
            "without": sorted(without),
            **computed,
        },
        missing=pictures.missing,
        mend="fetch the recordings again, or say where they are: --raw",
        crop=pictures.crop,
    )


PUBLISHED_SPLITS = {
    "train": "TRAIN",
    "hold-out-view": "VALID_HOLD_OUT_VIEW",
    "hold-out-expression": "VALID_HOLD_OUT_EXP",
    "hold-out-sequence": "VALID_HOLD_OUT_SEQ",
    "hold-out-person": "VALID_HOLD_OUT_PERSON",
}


def archive_splits(config: dict[str, Any]) -> SplitSettings:
    """The splits of an archive's `dataset_config.json`."""
    ours = {published: own for own, published in PUBLISHED_SPLITS.items()}
    cameras, sequences = config.get("hold_out_cameras"), config.get("hold_out_sequences")
    return SplitSettings(
        enabled=tuple(ours[str(name).upper()] for name in config.get("supported_splits") or ["TRAIN"]),
        ratio=config.get("split_ratio", 1.0),
        seed=config.get("seed", 181998),
        hold_out_cameras=None if cameras is None else tuple(cameras),
        hold_out_sequences=None if sequences is None else tuple(sequences),
        predefined=bool(config.get("use_predefined_test_split")) and sequences is None,
        exclude_sequences=tuple(config.get("exclude_sequences") or ()),
    )


class ArchivePictures:
    """Published samples in evaluation mode: a square fixed over each sequence, torso removed, foreground mask."""

    def __init__(
        self,
        data: RenderingData,
        raw: Path,
        resolution: int,
        config: dict[str, Any],
        without: Sequence[str] = (),
        compat: bool = False,
    ):
        self.data, self.path, self.resolution, self.compat = data, data.path, resolution, compat
        self.without = set(without)
        self.smooth = config.get("interpolate_target_images", False)
        self.remove_torso = config.get("remove_torso", False)
        self.segmentation = str(config.get("segmentation_type", "bisenet")).lower()
        self.eyes = config.get("include_eye_condition", False)
        self.tracker = data.config.mesh_provider_config.nphm_tracking
        self._person = lru_cache(maxsize=4)(lambda participant: RawParticipant(raw / f"{participant:03d}"))
        self._meshes = lru_cache(maxsize=8)(self._open_meshes)
        self.crop_of = lru_cache(maxsize=None)(self._crop)

    def _open_meshes(self, participant: int, sequence: str):
        from davatar.dataset.published_meshes import PublishedMeshes

        return PublishedMeshes(self._person(participant), sequence, self.data.config.mesh_provider_config)

    def missing(self, keys: Sequence[SampleKey]) -> list[SampleKey]:
        def file(key: SampleKey) -> Path:
            person = self._person(key.participant)
            frame = person.folder / "sequences" / key.sequence / "timesteps" / f"frame_{key.timestep:05d}"
            return frame / person.images / f"cam_{key.serial}.jpg"

        return [key for key in keys if not file(key).is_file()]

    def crop(self, key: SampleKey) -> Crop:
        return self.crop_of(key.participant, key.sequence, key.serial)

    def _crop(self, participant: int, sequence: str, serial: str) -> Crop:
        steps = self.data.stats.available_sequences[str(participant)][sequence]
        if self.compat and steps[0] != 0:
            raise DataError(
                f"{sequence} starts at time step {steps[0]}; the published square is that of time step 0",
                file=self.path,
                mend="leave out --compat",
            )
        person = self._person(participant)
        raw, factor = person.camera(serial, downscale=1), self.data.config.downscale_factor
        box = person.box(sequence, steps[0], serial)
        return choose_crop(raw.width / factor, raw.height / factor, box, Random(0), smallest=1, aspect=1)

    def load(self, key: SampleKey) -> ArchivePicture:
        """
        Raises:
            DataError: a file of the sample is missing or truncated.
        """
        key = SampleKey(*key)
        person, crop, size = self._person(key.participant), self.crop(key), self.resolution
        picture, matte = person.image(key.sequence, key.timestep, key.serial)
        picture, matte = (np.round(x * 255).astype(np.uint8) for x in (picture, matte))
        if self.remove_torso or self.without:
            picture, matte = self._without(key, picture, matte)

        def cut(image: np.ndarray) -> np.ndarray:
            return crop_and_resize(image, crop, size, smooth=self.smooth)

        channels = [condition(self.data.channel(key, name), name, crop, size, smooth=self.smooth) for name in NAMES]
        code = person.expression(key.sequence, key.timestep, self.tracker)
        return ArchivePicture(
            key=key,
            image=cut(picture).astype(np.float32) / 255,
            alpha=cut(matte).astype(np.float32) / 255,
            codes=code if self.eyes else code[:200],
            head_to_world=self._meshes(key.participant, key.sequence).flame_to_world(key.timestep),
            camera=person.camera(key.serial, self.data.config.downscale_factor),
            rendered=np.concatenate(channels).astype(np.float32),
            mask=crop_and_resize(self.data.channel(key, "mask"), crop, size),
        )

    def _without(self, key: SampleKey, picture: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The picture without its torso, and the matte without what does not count."""
        found = read_segmentation(
            self._person(key.participant), key.sequence, key.timestep, key.serial, matte.shape[::-1], self.segmentation
        )
        torso = torso_mask(found, picture, matte)
        if self.remove_torso:
            picture = np.where(torso[..., None], 255, picture).astype(np.uint8)
        gone = torso if self.remove_torso or "torso" in self.without else np.zeros_like(torso)
        if "neck" in self.without:
            gone = gone | (found.labels == found.neck)
        if "background" in self.without:
            gone = gone | (found.labels == 0)
        return picture, np.where(gone, 0, matte).astype(np.uint8)
