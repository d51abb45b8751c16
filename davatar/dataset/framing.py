"""The square around the head in one camera, and one frame brought into it: maps, photograph, alpha.

The square is fixed over a sequence, so that the pictures move as the head does. Metres, pixels of the recording
for crops; pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from davatar.capture.frame import Frame
from davatar.core.errors import DataError
from davatar.dataset import channels, matting
from davatar.dataset.crop import Crop
from davatar.dataset.settings import RasterSettings
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.headmodel.morphable import to_head_units
from davatar.raster.maps import Rasterizer, RasterMaps

HEAD_CENTER = to_head_units(np.array([0.0, 0.02, 0.015]))  # head-model units; half-way between the cut and the hair
HEAD_RADIUS = 0.155  # m, the hair counts
JAW = to_head_units(np.array([0.0, -0.03, 0.0]))  # below and behind it a face turned away is the neck's inside
FARTHEST = 2.0  # m, end of the depth code
RAYS_PER_PIXEL = 3  # per side and pixel of the recording: as finely as the synthetic recorder antialiases
MOST_RAYS = 8


@dataclass(frozen=True)
class Framing:
    source: Camera  # the recording's
    crop: Crop  # px of the recording; may reach beyond its images
    camera: Camera  # of the cropped and resized pictures


def frame_head(source: Camera, heads: np.ndarray, size: int, margin: float = 1.0) -> Framing:
    """The smallest square that holds the head's ball in all poses.

    A recording that is itself a square and shows no more than that is taken whole: no resampling, no empty border.

    Args:
        heads: [T, 4, 4] head-model units to world metres.

    Raises:
        DataError: the head is behind the camera or too far away in some frame, or T = 0.
    """
    centers = heads[:, :3, :3] @ HEAD_CENTER + heads[:, :3, 3]
    pixels, depth = source.project(centers)
    if not len(heads) or depth.min() <= HEAD_RADIUS:
        raise DataError("the tracked head is not in front of the camera", mend="look at the track's overlay video")
    if depth.max() + HEAD_RADIUS > FARTHEST:
        raise DataError(
            f"the head is up to {depth.max():.2f} m from a camera, the layout stores depths below {FARTHEST:g} m",
            mend="leave that camera out, or record from closer",
        )
    radius = margin * HEAD_RADIUS * source.K[[0, 1], [0, 1]] / depth[:, None]
    low, high = (pixels - radius).min(0), (pixels + radius).max(0)
    side = int(np.ceil((high - low).max()))
    x, y = np.round((low + high) / 2 - side / 2 + 0.5).astype(int)
    crop = Crop(int(x), int(y), side, side)
    if source.width == source.height <= side:
        crop = Crop(0, 0, source.width, source.height)
    return Framing(source, crop, source.cropped(*crop).resized(size, size))


def photograph(
    mesh: Mesh,
    frame: Frame,
    view: Framing,
    rasterizer: Rasterizer,
    settings: RasterSettings,
    *,
    head_to_world: np.ndarray | None = None,
    on_white: bool = False,
) -> dict[str, np.ndarray]:
    """Codes of every channel of one frame, each [size, size(, 3)].

    Args:
        head_to_world: [4, 4] similarity, head-model units to m; None = the picture does not fade at the neck.
        on_white: the frame's colours are on white already; else they are put there by the matte.

    Raises:
        DataError: the frame's camera is not the sequence's.
    """
    if not np.allclose(frame.camera.world_to_camera, view.source.world_to_camera) or not np.allclose(
        frame.camera.K, view.source.K
    ):
        raise DataError(f"camera of frame {frame.name or frame.index} differs from the first frame's: it must not move")
    ratio = view.crop.width / settings.size
    rays = settings.subpixels or int(np.clip(round(RAYS_PER_PIXEL * ratio), RAYS_PER_PIXEL, MOST_RAYS))
    maps = rasterizer.rasterize(mesh, view.camera, subpixels=rays)
    shown = _inside(view, settings.size)
    if settings.cut_neck:
        shown &= ~_neck_inside(maps, view.camera)
    maps = _within(maps, shown)
    codes = channels.encode_maps(maps)
    fade = np.ones(maps.mask.shape, np.float32)
    if settings.cut_neck and head_to_world is not None:
        fade = matting.neck_fade(maps, view.camera, head_to_world)
    alpha = _alpha(maps, frame, view, fade)
    codes["alpha"] = channels.encode_share(alpha)
    if frame.color is not None:
        color = resample(frame.color.astype(np.float32) / 255, view.crop, settings.size, outside=1.0)
        codes["images"] = channels.encode_share(matting.on_white(color, fade if on_white else alpha))
    return codes


def _neck_inside(maps: RasterMaps, camera: Camera) -> np.ndarray:
    """[H, W] bool: through the cut neck the camera sees the head from within, at its back."""
    toward = (camera.rays() @ camera.world_to_camera[:3, :3] * maps.normal).sum(-1)
    behind_jaw = (maps.canonical[..., 1] < JAW[1]) & (maps.canonical[..., 2] < JAW[2])
    return maps.mask & (toward > 0) & behind_jaw


def resample(image: np.ndarray, crop: Crop, size: int, outside: float) -> np.ndarray:
    """The crop of [H, W(, C)] at size x size; averaged over pixel areas when it shrinks, `outside` beyond the image."""
    method = cv2.INTER_AREA if crop.width > size else cv2.INTER_LINEAR
    return cv2.resize(_window(image, crop, outside), (size, size), interpolation=method)


def _window(image: np.ndarray, crop: Crop, outside: float) -> np.ndarray:
    height, width = image.shape[:2]
    out = np.full((crop.height, crop.width, *image.shape[2:]), outside, image.dtype)
    top, left = max(crop.y, 0), max(crop.x, 0)
    bottom, right = min(crop.y + crop.height, height), min(crop.x + crop.width, width)
    if top < bottom and left < right:
        out[top - crop.y : bottom - crop.y, left - crop.x : right - crop.x] = image[top:bottom, left:right]
    return out


def _inside(view: Framing, size: int) -> np.ndarray:
    """[size, size] bool: pixels that the recording shows entirely."""
    shown = np.ones((view.source.height, view.source.width), np.float32)
    return resample(shown, view.crop, size, outside=0.0) > 0.999


def _within(maps: RasterMaps, inside: np.ndarray) -> RasterMaps:
    """Maps emptied where there is no photograph: there the avatar has nothing to learn from."""
    if inside.all():
        return maps
    return RasterMaps(
        triangle=np.where(inside, maps.triangle, -1),
        barycentric=maps.barycentric * inside[..., None],
        depth=maps.depth * inside,
        normal=maps.normal * inside[..., None],
        canonical=maps.canonical * inside[..., None],
        mask=maps.mask & inside,
        coverage=None if maps.coverage is None else maps.coverage * inside,
    )


def _alpha(maps: RasterMaps, frame: Frame, view: Framing, fade: np.ndarray) -> np.ndarray:
    """The recording's own matte, else one made from depth, else the mesh's coverage, times `fade`; 0 outside."""
    size = len(fade)
    if frame.mask is not None:
        return fade * np.clip(resample(frame.mask.astype(np.float32), view.crop, size, outside=0.0), 0, 1)
    if frame.depth is None:
        return fade * maps.coverage
    depth = _window(frame.depth.astype(np.float32), view.crop, np.nan)
    depth = cv2.resize(depth, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return matting.depth_alpha(maps, depth, view.camera.K[0, 0], fade) * _inside(view, size)
