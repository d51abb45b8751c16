"""Which pixels of a published recording show the torso, which the published avatars do not learn.

Segmentation labels of the recording, repaired: islands of background before the shoulders belong to the torso,
islands of a shirt's gap belong to the neck, crumbs beside the torso go with it (spec diffusion-avatars 3.4, 3.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from davatar.core.errors import DataError
from davatar.dataset.nersemble import RawParticipant

LIKE_SKIN = 0.15  # distance of median colours, 0..1 per channel, below which an island is neck
REACH = 50  # px that the torso is widened to catch background islands
FACER_NECK, FACER_TORSO, BISENET_NECK, BISENET_TORSO, LAST_FACER = 1, 3, 14, 16, 14
KINDS = {"facer": "facer_segmentation_masks", "bisenet": "bisenet_segmentation_masks"}


@dataclass(frozen=True)
class Segmentation:
    labels: np.ndarray  # [H, W] uint8
    facer: bool  # else BiSeNet's labels

    @property
    def neck(self) -> int:
        return FACER_NECK if self.facer else BISENET_NECK

    @property
    def torso(self) -> list[int]:
        """Labels that mean the torso; facer marks what lies outside its box with a number above 14."""
        if not self.facer:
            return [BISENET_TORSO]
        return [FACER_TORSO] + [int(self.labels.max())] * bool(self.labels.max() > LAST_FACER)


def read_segmentation(
    raw: RawParticipant, sequence: str, timestep: int, serial: str, size: tuple[int, int], kind: str = "facer"
) -> Segmentation:
    """Labels of one picture; BiSeNet's where facer's file is absent.

    Args:
        size: (width, height) of the picture.

    Raises:
        DataError: neither file is readable.
    """
    from PIL import Image

    frame = raw.folder / "sequences" / sequence / "timesteps" / f"frame_{timestep:05d}"
    names = [name for name in KINDS if kind == "facer" or name == "bisenet"]
    files = {name: frame / KINDS[name] / f"segmentation_cam_{serial}.png" for name in names}
    found = next((name for name, file in files.items() if file.is_file()), None)
    if found is None:
        raise DataError("has no segmentation", file=files[names[0]], mend="fetch the recording again")
    try:
        with Image.open(files[found]) as image:
            return Segmentation(np.asarray(image.resize(size, Image.Resampling.NEAREST)), found == "facer")
    except OSError as error:
        raise DataError(f"is not readable: {error}", file=files[found], mend="fetch the recording again") from error


def torso_mask(segmentation: Segmentation, picture: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """
    Args:
        picture: [H, W, 3] uint8 on white.
        matte: [H, W] uint8.

    Returns:
        [H, W] bool
    """
    torso = np.isin(segmentation.labels, segmentation.torso)
    if segmentation.facer:
        torso = _with_background_islands(segmentation, torso, picture)
    for island in _small_islands(~(torso | (matte == 0))):
        if (_wider(island) & ~island & torso).any():
            torso = torso | island
    return torso


def _with_background_islands(segmentation: Segmentation, torso: np.ndarray, picture: np.ndarray) -> np.ndarray:
    labels = segmentation.labels
    background, neck = labels == 0, labels == segmentation.neck
    skin = _median_colour(picture, neck)

    def like_skin(island: np.ndarray) -> bool:
        return bool(np.linalg.norm(_median_colour(picture, island) - skin) < LIKE_SKIN)

    near = ndimage.binary_dilation(torso, iterations=REACH)
    for island in _small_islands(background):
        if like_skin(island) and (_wider(island) & ~island & neck).any():
            background = background & ~island
    torso = torso | (near & background)
    background = background & ~torso
    allowed = [*segmentation.torso, 0, segmentation.neck]
    for island in _small_islands(background):
        ring = _wider(island) & ~background
        if np.isin(labels[ring], allowed).all() and not ((ring & neck).any() and like_skin(island)):
            torso = torso | island
    return torso


def _small_islands(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Connected parts of a mask, and its complement, by falling size and without the two largest."""
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    for part in np.argsort(-sizes, kind="stable")[2:]:
        yield parts == part


def _wider(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=2)


def _median_colour(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[3] 0..1; NaN where nothing is chosen, which is like no colour."""
    return np.median(picture[where], axis=0) / 255 if where.any() else np.full(3, np.nan)
