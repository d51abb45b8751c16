"""`Track`: the fitted head over a sequence, and its file `track.npz` (design 4, 5; spec dphm 6.7).

A point of head-model space goes to the capture's world by x_world = scale * R_f (x_H / 4) + t_f, in m.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import atomic_path
from davatar.headmodel.morphable import OFFSET, UNITS_PER_METRE


@dataclass(frozen=True)
class Track:
    identity: np.ndarray  # [Di] identity code
    expression: np.ndarray  # [T, De] expression codes
    rotation: np.ndarray  # [T, 3, 3] head to world
    translation: np.ndarray  # [T, 3] m, world position of the head-model origin
    scale: float  # metres per (quarter head-model unit); 1 for a depth camera
    frames: np.ndarray  # [T] int, index of each row in the capture
    residual_mm: np.ndarray  # [T] mean distance of the used depth points to the surface
    coverage: np.ndarray  # [T] 0..1, share of the model's visible points that have a depth point near
    flag: np.ndarray  # [T] uint8: 0 tracked, 1 restarted here, 2 lost (values are carried over), 3 frame skipped
    morphable_identity: np.ndarray  # [100] coefficients of the geometric fit
    morphable_expression: np.ndarray  # [T, 53] ARKit-like weights of the geometric fit
    morphable_rotation: np.ndarray  # [T, 3, 3] pose of the geometric fit
    morphable_translation: np.ndarray  # [T, 3] m, world position of the morphable frame's origin
    model: str = "open"  # name and content hash of the head model
    settings: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.expression)

    def head_to_world(self, row: int) -> np.ndarray:
        """[4, 4] similarity from head-model units to world metres for one row."""
        out = np.eye(4)
        out[:3, :3] = self.scale / UNITS_PER_METRE * self.rotation[row]
        out[:3, 3] = self.translation[row]
        return out


def pose_from_morphable(rotation: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose of the morphable frame [..., 3, 3], [..., 3] m -> the same head's pose in head-model terms (scale 1)."""
    return rotation, translation - rotation @ (OFFSET / UNITS_PER_METRE)


_KEYS = (
    "identity",
    "expression",
    "rotation",
    "translation",
    "frames",
    "residual_mm",
    "coverage",
    "flag",
    "morphable_identity",
    "morphable_expression",
    "morphable_rotation",
    "morphable_translation",
)


def save_track(path: str | Path, track: Track) -> None:
    """`track.npz`: the arrays of `Track` plus the published keys of spec dphm 6.7, so that other tools read it too."""
    import json

    published = {
        "lat_rep_shape": track.identity[None, None].astype(np.float32),
        "lat_reps_expr": track.expression[:, None].astype(np.float32),
        "rot": track.rotation.astype(np.float32),
        "trans": track.translation.astype(np.float32),
        "scale": np.float32(track.scale),
    }
    arrays = {key: getattr(track, key) for key in _KEYS}
    about = json.dumps({"model": track.model, "settings": track.settings})
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays, **published, about=np.frombuffer(about.encode(), np.uint8))


def load_track(path: str | Path) -> Track:
    """
    Raises:
        DataError: the file is absent, truncated, lacks an array or holds non-finite values.
    """
    import json
    import zipfile

    path = Path(path)
    if path.is_dir():
        path = path / "track.npz"
    if not path.is_file():
        raise DataError("no track there", file=path, mend="run `davatar track` on the recording first")
    try:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in _KEYS}
            about = json.loads(bytes(archive["about"]).decode())
            scale = float(archive["scale"])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not a readable track: {error}", file=path, mend="run `davatar track` again") from error
    for key, value in arrays.items():
        if not np.isfinite(value).all():
            raise DataError(f"holds non-finite values in {key}", file=path, mend="run `davatar track` again")
    return Track(scale=scale, model=about["model"], settings=about["settings"], **arrays)
