"""Where an evaluation's pictures lie, with the published names (spec diffusion-avatars 9.3, 9.5).

    <root>/<participant, 3 digits>/<sequence>/<serial>/frame_00012_{prediction,target,mask,error,...}.png

A frame counts as done when its prediction is there (it is written last), so an interrupted evaluation goes on
at the next frame, and another metric needs no new rendering.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from davatar.core.files import write_bytes
from davatar.evaluation.aggregate import ClipKey, FramePair
from davatar.evaluation.pictures import error_map, png_bytes, read_picture, video_bytes

_PREDICTION = re.compile(r"frame_(\d{5})_prediction\.png")


@dataclass(frozen=True)
class EvaluationFolder:
    root: Path

    def clip_folder(self, clip: ClipKey) -> Path:
        participant, sequence, serial = clip
        name = f"{int(participant):03d}" if participant.isdigit() else participant
        return self.root / name / sequence / serial

    def path(self, clip: ClipKey, timestep: int, kind: str) -> Path:
        return self.clip_folder(clip) / f"frame_{timestep:05d}_{kind}.png"

    def has(self, clip: ClipKey, timestep: int) -> bool:
        return self.path(clip, timestep, "prediction").is_file()

    def save(self, clip: ClipKey, timestep: int, pair: FramePair) -> None:
        """Write target, mask, error maps and masked pictures, then the prediction."""
        prediction, target = pair.prediction, pair.target
        pictures = {"target": target, "error": error_map(prediction, target)}
        if pair.mask is not None:
            alpha = pair.mask[..., None] / 255.0
            masked = [
                np.round((alpha * image / 255 + 1 - alpha) * 255).astype(np.uint8) for image in (prediction, target)
            ]
            pictures |= {
                "mask": pair.mask,
                "prediction_masked": masked[0],
                "target_masked": masked[1],
                "error_masked": error_map(*masked),
            }
        for kind, image in {**pictures, "prediction": prediction}.items():
            write_bytes(self.path(clip, timestep, kind), png_bytes(image))

    def write_videos(self, clip: ClipKey, fps: float = 24) -> None:
        """The published videos of a clip, from its finished pictures: predictions, targets and error maps."""
        kinds = {"predictions": "prediction", "targets": "target", "error_maps": "error"}
        steps = self.timesteps(clip)
        for name, kind in kinds.items():
            for masked in ("", "_masked"):
                files = [self.path(clip, step, f"{kind}{masked}") for step in steps]
                if all(file.is_file() for file in files):
                    pictures = (read_picture(file) for file in files)
                    write_bytes(self.clip_folder(clip) / f"video_{name}{masked}.mp4", video_bytes(pictures, fps))

    def timesteps(self, clip: ClipKey) -> list[int]:
        """Finished frames, in order."""
        folder = self.clip_folder(clip)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return [int(found[1]) for name in names if (found := _PREDICTION.fullmatch(name))]

    def load(self, clip: ClipKey, timestep: int) -> FramePair:
        """
        Raises:
            DataError: a picture is missing or truncated (names it).
        """
        mask = self.path(clip, timestep, "mask")
        return FramePair(
            read_picture(self.path(clip, timestep, "prediction")),
            read_picture(self.path(clip, timestep, "target")),
            read_picture(mask) if mask.is_file() else None,
        )

    def pairs(self, clip: ClipKey) -> Iterator[FramePair]:
        """The finished frames of a clip, one at a time."""
        for timestep in self.timesteps(clip):
            yield self.load(clip, timestep)
