"""Reading a data set, published or ours: `RenderingData(path)` lists samples and loads them as numbers.

Published sets lack pictures, cameras and codes; these come from the participant's raw recording when its folder is
given (`raw`). Ours carry everything. Metres, world frame of the recording; canonical coordinates in head-model units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json
from davatar.dataset import channels, quantisers
from davatar.dataset.layout import SampleKey, channel_path, read_config, read_stats, sequence_folder
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.splits import SplitSettings, carve
from davatar.geometry.camera import Camera


@dataclass(frozen=True)
class Sample:
    key: SampleKey  # participant, sequence, timestep, serial
    depth: np.ndarray  # [H, W] float32 m along the camera's z, 0 = background
    uv: np.ndarray  # [H, W, 3] float32 canonical position as share of the box, 0..1, zeros = background
    uv_ambient: np.ndarray  # [H, W, 2] float32 the two hyper coordinates likewise
    normals: np.ndarray  # [H, W, 3] float32 unit, world, zeros = background
    mask: np.ndarray  # [H, W] bool, the pixel's centre sees the mesh
    coverage: np.ndarray  # [H, W] float32 0..1, share of the pixel that the mesh covers
    image: np.ndarray | None  # [H, W, 3] float32 0..1 sRGB on white
    alpha: np.ndarray | None  # [H, W] float32 0..1 of `image`
    codes: np.ndarray  # [De] float32 expression code of the head model (published: 200 + 6 eye values); may be empty
    weights: np.ndarray  # [53] float32 morphable weights of the geometric fit, or empty
    head_to_world: np.ndarray | None  # [4, 4] similarity, head-model units to world m
    camera: Camera | None

    @property
    def canonical(self) -> np.ndarray:
        """[H, W, 3] head-model units, zeros = background."""
        return quantisers.denormalise_canonical(self.uv) * self.mask[..., None]

    @property
    def expression(self) -> np.ndarray:
        """[De + 53]: the head model's code, then the morphable weights."""
        return np.concatenate([self.codes, self.weights])


class RenderingData:
    """A data set's folder.

    Args:
        path: `rendering_data/v<version>[-<name>]`.
        raw: the folder `nersemble` with the raw participants, for published sets.

    Raises:
        DataError: config.json or stats.json is missing or unreadable.
    """

    def __init__(self, path: str | Path, raw: str | Path | None = None):
        self.path = Path(path)
        self.config = read_config(self.path)
        self.stats = read_stats(self.path)
        self.about = read_json(self.path / "davatar.json") if (self.path / "davatar.json").is_file() else None
        self._cameras = read_json(self.path / "cameras.json") if self.about else {}
        self.raw = Path(raw) if raw else None
        self._sequence = lru_cache(maxsize=64)(self._read_sequence)
        self._participant = lru_cache(maxsize=8)(self._open_participant)

    @property
    def is_ours(self) -> bool:
        return self.about is not None

    def splits(self, settings: SplitSettings | None = None) -> dict[str, list[SampleKey]]:
        """Split name -> samples; without settings, those the data set was made with (published: the paper's)."""
        return carve(self.config, self.stats, settings or self.default_splits())

    def samples(self, split: str = "train", settings: SplitSettings | None = None) -> list[SampleKey]:
        """
        Raises:
            DataError: the split is not among those carved out.
        """
        found = self.splits(settings)
        if split not in found:
            raise DataError(f"has no split {split!r}", file=self.path, mend=f"there are {', '.join(found)}")
        return found[split]

    def default_splits(self) -> SplitSettings:
        if not self.is_ours:
            return SplitSettings(hold_out_cameras=("222200037",), predefined=True)
        chosen = self.about["settings"]
        cameras, sequences = chosen["hold_out_cameras"], chosen["hold_out_sequences"]
        enabled = ["train"] + ["hold-out-view"] * bool(cameras) + ["hold-out-sequence"] * bool(sequences)
        if not cameras and not sequences:
            enabled.append("hold-out-expression")
        return SplitSettings(
            enabled=tuple(enabled),
            ratio=0.8,
            hold_out_cameras=tuple(cameras),
            hold_out_sequences=tuple(sequences),
            block=4,
        )

    def channel(self, key: SampleKey, name: str) -> np.ndarray:
        """One stored channel as numbers, see `channels.decode`."""
        return channels.decode(name, channels.read_png(channel_path(self.path, SampleKey(*key), name)))

    def load(self, key: SampleKey) -> Sample:
        """
        Raises:
            DataError: a file of the sample is missing or truncated.
        """
        key = SampleKey(*key)
        mask = self.channel(key, "mask")
        clip = self.channel(key, "depths")
        sample = Sample(
            key=key,
            depth=np.where(mask, quantisers.camera_depth(clip), 0).astype(np.float32),
            uv=self.channel(key, "uv"),
            uv_ambient=self.channel(key, "uv_ambient"),
            normals=self.channel(key, "normals"),
            mask=mask,
            coverage=mask.astype(np.float32),
            image=None,
            alpha=None,
            codes=np.zeros(0, np.float32),
            weights=np.zeros(0, np.float32),
            head_to_world=None,
            camera=None,
        )
        return self._with_ours(sample) if self.is_ours else self._with_raw(sample)

    def _with_ours(self, sample: Sample) -> Sample:
        key = sample.key
        arrays = self._sequence(key.participant, key.sequence)
        row = np.flatnonzero(arrays["timesteps"] == key.timestep)
        if len(row) != 1:
            raise DataError(f"expression.npz of {key.sequence} lacks timestep {key.timestep}", file=self.path)
        has_image = channel_path(self.path, key, "images").is_file()
        return replace(
            sample,
            coverage=self.channel(key, "coverage"),
            image=self.channel(key, "images") if has_image else None,
            alpha=self.channel(key, "alpha"),
            codes=arrays["codes"][row[0]],
            weights=arrays["weights"][row[0]],
            head_to_world=arrays["head_to_world"][row[0]],
            camera=self.camera(key),
        )

    def _with_raw(self, sample: Sample) -> Sample:
        key = sample.key
        if self.raw is None:
            return sample
        raw = self._participant(key.participant)
        tracker = self.config.mesh_provider_config.nphm_tracking
        image, alpha = raw.image(key.sequence, key.timestep, key.serial)
        return replace(
            sample,
            image=image,
            alpha=alpha,
            codes=raw.expression(key.sequence, key.timestep, tracker),
            camera=raw.camera(key.serial, self.config.downscale_factor),
        )

    def camera(self, key: SampleKey) -> Camera:
        """The camera of a sample's pictures.

        Raises:
            DataError: the data set stores none for it. MissingError: a published set without its raw recording.
        """
        if not self.is_ours:
            if self.raw is None:
                raise MissingError("the cameras lie with the raw recording", file=self.path, mend="give its folder")
            return self._participant(key.participant).camera(key.serial, self.config.downscale_factor)
        try:
            entry = self._cameras[f"{key.participant:03d}"][key.sequence][key.serial]
            return Camera(entry["K"], entry["world_to_camera"], entry["width"], entry["height"])
        except KeyError as error:
            raise DataError(f"has no camera for {key}", file=self.path / "cameras.json") from error

    def crop(self, key: SampleKey) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the sample's square in the recording's pixels; ours only."""
        return tuple(self._cameras[f"{key.participant:03d}"][key.sequence][key.serial]["crop"])

    def _read_sequence(self, participant: int, sequence: str) -> dict[str, np.ndarray]:
        file = sequence_folder(self.path, participant, sequence) / "expression.npz"
        try:
            with np.load(file) as archive:
                return {name: archive[name] for name in ("timesteps", "codes", "weights", "head_to_world")}
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"is not readable: {error}", file=file, mend="rasterize the track again") from error

    def _open_participant(self, participant: int) -> RawParticipant:
        return RawParticipant(self.raw / f"{participant:03d}")
