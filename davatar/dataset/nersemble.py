"""What a published data set leaves to the raw recording: cameras, face boxes, expression codes, matted pictures.

Layout of spec diffusion-avatars 1.1 (one folder per participant). Calibration poses are world to camera with OpenCV
axes; its pixel centres lie at +0.5 and are moved to integers here. Pictures are the half-size ones, colour
corrected and on white; the torso stays in them.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import read_json
from davatar.geometry.camera import Camera

TRACKERS = {
    "NPHM": "NPHM",
    "NPHM_V2": "NPHM_v2",
    "NPHM_V3": "NPHM_v3",
    "NPHM_TEMPORAL_NECK": "NPHM_temp_wNeck",
    "NPHM_TEMPORAL_NECK_LMS": "NPHM_temp_wNeck_wLMs",
    "NPHM_TEMPORAL_NECK_LMS_6": "NPHM_temp_wNeck_wLMs_6",
    "NPHM_TEMPORAL_NECK_LMS_12": "NPHM_temp_wNeck_wLMs_12",
}
_FRAME = re.compile(r"frame_(\d+)")


class RawParticipant:
    def __init__(self, folder: str | Path, images: str = "images-2x"):
        self.folder = Path(folder)
        self.images = images
        if not self.folder.is_dir():
            raise DataError("no such recording", file=folder, mend="davatar data fetch <participant> --what nersemble")

    @cached_property
    def _calibration(self) -> tuple[dict, dict]:
        folder = self.folder / "calibration"
        return read_json(folder / "config.json"), read_json(folder / "calibration_result.json")["params_result"]

    @property
    def serials(self) -> list[str]:
        return list(self._calibration[0]["serials"])

    def camera(self, serial: str, downscale: int = 2) -> Camera:
        """
        Raises:
            DataError: the calibration does not know the serial.
        """
        config, result = self._calibration
        if serial not in config["serials"]:
            raise DataError(f"does not know camera {serial}", file=self.folder / "calibration" / "config.json")
        index = config["serials"].index(serial)
        intrinsics = result.get("intrinsics") or [{k: result[k] for k in ("fx", "fy", "cx", "cy") if k in result}]
        one = intrinsics[index if len(intrinsics) == len(config["serials"]) else 0]
        fx, fy = one["fx"], one.get("fy") or one["fx"]
        pose = np.eye(4)
        pose[:3, :3] = cv2.Rodrigues(np.array(result["rs"][index], np.float64))[0]
        pose[:3, 3] = result["ts"][index]
        fx, fy, cx, cy = (value / downscale for value in (fx, fy, one["cx"], one["cy"]))
        width, height = (config["image_size"][key] // downscale for key in ("w", "h"))
        return Camera.pinhole(fx, fy, cx - 0.5, cy - 0.5, width, height, pose)

    def timesteps(self, sequence: str) -> list[int]:
        folder = self.folder / "sequences" / sequence / "timesteps"
        if not folder.is_dir():
            raise DataError("no such sequence", file=folder)
        found = [_FRAME.fullmatch(p.name) for p in folder.iterdir() if (p / self.images).is_dir()]
        return sorted(int(match[1]) for match in found if match)

    def row(self, sequence: str, timestep: int) -> int:
        """Index of a time step in the per-sequence arrays."""
        steps = self.timesteps(sequence)
        if timestep not in steps:
            raise DataError(f"has no time step {timestep}", file=self.folder / "sequences" / sequence)
        return steps.index(timestep)

    def box(self, sequence: str, timestep: int, serial: str) -> np.ndarray:
        """[5] face box x, y, width, height relative to the image, and its score."""
        return self._array(sequence, f"bbox/{serial}.npy")[self.row(sequence, timestep)]

    def expression(self, sequence: str, timestep: int, tracker: str) -> np.ndarray:
        """[206] float32: the tracker's 200 codes, then 6 eye values."""
        code = self._array(sequence, f"tracking/{TRACKERS[tracker]}/{timestep:05d}_ex_code.npz", "arr_0")
        eyes = self._array(sequence, "tracking/FLAME2023_v2/tracked_flame_params.npz", "eyes")
        return np.concatenate([code.reshape(-1), eyes[self.row(sequence, timestep)]]).astype(np.float32)

    def image(self, sequence: str, timestep: int, serial: str) -> tuple[np.ndarray, np.ndarray]:
        """The matted picture [H, W, 3] float32 0..1 on white, and its matte [H, W] (spec 3.4, steps 1-3)."""
        from PIL import Image

        folder = self.folder / "sequences" / sequence / "timesteps" / f"frame_{timestep:05d}"
        try:
            with Image.open(folder / self.images / f"cam_{serial}.jpg") as file:
                picture = np.asarray(file.convert("RGB"))
            with Image.open(folder / "alpha_map" / f"cam_{serial}.png") as file:
                half = file.resize((file.width // 2, file.height // 2), Image.Resampling.BILINEAR)
            matte = np.asarray(half.resize(picture.shape[1::-1], Image.Resampling.BILINEAR))[..., None] / 255
        except OSError as error:
            raise DataError(f"is not readable: {error}", file=folder, mend="fetch the recording again") from error
        affine = self._array(sequence, f"color_correction/{serial}.npy")
        corrected = (picture / 255) @ affine[:3, :3] + affine[:3, 3]
        corrected = (np.clip(corrected, 0, 1) * 255).astype(np.uint8)
        blended = (matte * corrected / 255 + (1 - matte)) * 255
        return np.clip(blended, 0, 255).astype(np.uint8).astype(np.float32) / 255, matte[..., 0].astype(np.float32)

    def _array(self, sequence: str, name: str, key: str | None = None) -> np.ndarray:
        file = self.folder / "sequences" / sequence / "annotations" / name
        try:
            loaded = np.load(file)
            return loaded if key is None else loaded[key]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"is not readable: {error}", file=file, mend="fetch the recording again") from error
