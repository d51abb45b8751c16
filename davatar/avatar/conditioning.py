"""What a denoiser is told about one frame: the rasterised head, its camera and its expression.

`HeadMaps` is one frame in compact arrays, the same for every avatar. `fill_rim` gives partly covered
pixels the surface of a neighbour. `PointBatch` is the small avatar's view of several frames (a list of
head points), `rendered_conditions` the published one's (a 9-channel image, spec diffusion-avatars 3.3).

Directions are turned into the frame of the reference view with x right, y up, z towards the viewer, so
that light fixed in the world looks the same whatever world axes a recording uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from davatar.core.errors import DataError
from davatar.dataset.quantisers import clip_depth, normalise_canonical

TO_GL = np.diag([1.0, -1.0, -1.0])  # OpenCV camera axes -> x right, y up, z towards the viewer
DEPTH_SPREAD = 0.05  # m; about the standard deviation of depth over a face
# Where errors show most: eyes and mouth as boxes of canonical space (head-model units).
FACE_BOXES = {
    "mouth": ((-0.13, 0.13), (-0.33, -0.13), (-0.10, 0.36)),
    "eyes": ((-0.22, 0.22), (0.01, 0.14), (-0.02, 0.34)),
}


@dataclass(frozen=True)
class HeadMaps:
    """One frame on its pixel grid; `mask` says where canonical, normal and depth mean something."""

    canonical: np.ndarray  # [H, W, 3] float16 head-model units
    normal: np.ndarray  # [H, W, 3] int8 = 127 * unit normal, reference axes
    depth: np.ndarray  # [H, W] float16 m, minus `mean_depth`
    mask: np.ndarray  # [H, W] bool
    coverage: np.ndarray  # [H, W] uint8, 255 = wholly covered by the head
    expression: np.ndarray  # [De] float32
    to_camera: np.ndarray  # [3, 3] float32, reference axes -> camera axes (x right, y up, z to the viewer)
    mean_depth: float = 0.0  # m
    ambient: np.ndarray | None = None  # [H, W, 2] float16 head-model units
    image: np.ndarray | None = None  # [H, W, 3] uint8 on white, the target
    key: str = ""

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape


def head_maps(
    *,
    canonical: np.ndarray,
    normal: np.ndarray,
    depth: np.ndarray,
    mask: np.ndarray,
    coverage: np.ndarray | None,
    expression: np.ndarray,
    world_to_camera: np.ndarray,
    world_to_reference: np.ndarray,
    image: np.ndarray | None = None,
    ambient: np.ndarray | None = None,
    key: str = "",
) -> HeadMaps:
    """Pack rasterised maps.

    Args:
        canonical: [H, W, 3] head-model units.
        normal: [H, W, 3] unit, world axes.
        depth: [H, W] m along the camera's z.
        mask: [H, W] bool, the centre of the pixel hits the head.
        coverage: [H, W] float 0..1, or None to use the mask.
        expression: [De].
        world_to_camera: [3, 3] rotation of the view, OpenCV axes.
        world_to_reference: [3, 3] rotation of the reference view, OpenCV axes.
        image: [H, W, 3] float 0..1 or uint8, on white.

    Raises:
        DataError: maps of different sizes, or non-finite values on the head.
    """
    for name, value in {"normal": normal, "depth": depth, "coverage": coverage, "image": image}.items():
        if value is not None and value.shape[:2] != mask.shape:
            raise DataError(
                f"{key}: {name} is {value.shape[:2]}, the mask {mask.shape}", mend="rasterise the frame again"
            )
    mask = mask.astype(bool)
    coverage = mask.astype(np.float32) if coverage is None else coverage
    arrays = {"canonical": canonical, "normal": normal, "depth": depth}
    if ambient is not None:
        arrays["ambient"] = ambient
    arrays, filled = fill_rim(arrays, mask, coverage > 0)
    for name, value in arrays.items():
        if not np.isfinite(value[filled]).all():
            raise DataError(f"{key}: {name} holds non-finite values on the head", mend="rasterise the frame again")
    mean = float(arrays["depth"][filled].mean()) if filled.any() else 0.0
    reference = TO_GL @ world_to_reference
    inside = filled[..., None]
    if image is not None and image.dtype != np.uint8:
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return HeadMaps(
        canonical=np.where(inside, arrays["canonical"], 0).astype(np.float16),
        normal=np.round(np.where(inside, arrays["normal"] @ reference.T, 0) * 127).astype(np.int8),
        depth=np.where(filled, arrays["depth"] - mean, 0).astype(np.float16),
        mask=filled,
        coverage=np.round(coverage * 255).astype(np.uint8),
        expression=np.asarray(expression, np.float32),
        to_camera=(TO_GL @ world_to_camera @ reference.T).astype(np.float32),
        mean_depth=mean,
        ambient=None if ambient is None else np.where(inside, arrays["ambient"], 0).astype(np.float16),
        image=image,
        key=key,
    )


def fill_rim(
    maps: dict[str, np.ndarray], mask: np.ndarray, wanted: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Copy the surface of a hit neighbour to pixels that the head covers partly but whose centre misses it.

    Args:
        maps: name -> [H, W, ...].
        mask: [H, W] bool, pixels with a surface.
        wanted: [H, W] bool, pixels that need one.

    Returns:
        the maps, filled, and the [H, W] bool mask of pixels that have a surface now: a wanted pixel
        without a hit pixel among its eight neighbours stays empty.
    """
    height, width = mask.shape
    source = np.arange(height * width).reshape(height, width)
    filled = mask.copy()
    hit = np.pad(mask, 1)
    index = np.pad(source, 1)
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        window = (slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width))
        take = wanted & ~filled & hit[window]
        source[take] = index[window][take]
        filled |= take
    return {name: value.reshape(height * width, *value.shape[2:])[source] for name, value in maps.items()}, filled


def with_expression(maps: HeadMaps, expression: np.ndarray) -> HeadMaps:
    """The same geometry told another expression: for probes of what the code does."""
    return replace(maps, expression=np.asarray(expression, np.float32))


@dataclass(frozen=True)
class PointBatch:
    """Several frames as lists of head points; pixel [n] counts through the batch, row by row."""

    counts: list[int]  # [B] points per frame
    pixel: torch.Tensor  # [N] int64
    canonical: torch.Tensor  # [N, 3] head-model units
    geometry: torch.Tensor  # [N, 8] reference normal, camera normal, relative depth, coverage
    coverage: torch.Tensor  # [B, 1, H, W] 0..1
    expression: torch.Tensor  # [B, De]
    identity: list[int]  # [B] which triplane
    image: torch.Tensor | None  # [B, 3, H, W] in -1..1
    weight: torch.Tensor | None  # [B, 1, H, W] of the squared error

    def to(self, device: torch.device | str) -> PointBatch:
        moved = {k: v.to(device) for k, v in self.__dict__.items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


def point_batch(
    frames: Sequence[HeadMaps],
    resolution: int,
    expression_size: int,
    identity: list[int] | None = None,
    face_weight: float = 4.0,
) -> PointBatch:
    """Gather the head points of several frames; `face_weight` is the loss weight in FACE_BOXES.

    Raises:
        DataError: a frame whose size or expression differs from what the avatar takes.
    """
    height = width = resolution
    for maps in frames:
        if maps.size != (height, width):
            raise DataError(
                f"{maps.key}: frame is {maps.size[1]}x{maps.size[0]}, the avatar paints {width}x{height}",
                mend=f"rasterise with --size {resolution}",
            )
        if len(maps.expression) != expression_size:
            raise DataError(
                f"{maps.key}: expression has {len(maps.expression)} numbers, the avatar takes {expression_size}",
                mend="use frames tracked with the avatar's head model",
            )
    counts, pixels, canonical, geometry = [], [], [], []
    weight = np.ones((len(frames), height * width), np.float32)
    for k, maps in enumerate(frames):
        index = np.flatnonzero(maps.mask)
        points = maps.canonical.reshape(-1, 3)[index].astype(np.float32)
        normal = maps.normal.reshape(-1, 3)[index].astype(np.float32) / 127
        depth = maps.depth.reshape(-1)[index].astype(np.float32)[:, None] / DEPTH_SPREAD
        cover = maps.coverage.reshape(-1)[index].astype(np.float32)[:, None] / 255
        geometry.append(np.concatenate([normal, normal @ maps.to_camera.T, depth, cover], 1))
        weight[k, index[in_face_boxes(points)]] = face_weight
        counts.append(len(index))
        pixels.append(index + k * height * width)
        canonical.append(points)
    image = None
    if all(maps.image is not None for maps in frames):
        stacked = torch.from_numpy(np.stack([maps.image for maps in frames]))
        image = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
    coverage = torch.from_numpy(np.stack([maps.coverage for maps in frames])).float()[:, None] / 255
    return PointBatch(
        counts=counts,
        pixel=torch.from_numpy(np.concatenate(pixels)),
        canonical=torch.from_numpy(np.concatenate(canonical)),
        geometry=torch.from_numpy(np.concatenate(geometry)),
        coverage=coverage,
        expression=torch.from_numpy(np.stack([maps.expression for maps in frames])),
        identity=[0] * len(frames) if identity is None else identity,
        image=image,
        weight=torch.from_numpy(weight).reshape(len(frames), 1, height, width),
    )


def in_face_boxes(points: np.ndarray, *names: str) -> np.ndarray:
    """[..., 3] canonical points -> [...] bool: inside one of the named FACE_BOXES (default: all)."""
    found = np.zeros(points.shape[:-1], bool)
    for name in names or FACE_BOXES:
        low, high = np.array(FACE_BOXES[name], np.float32).T
        found |= ((points > low) & (points < high)).all(-1)
    return found


def rendered_conditions(maps: HeadMaps) -> np.ndarray:
    """[9, H, W] float32: depth 1 | canonical 3 | world normal 3 | ambient 2, encoded as spec 3.3 says."""
    inside = maps.mask[..., None]
    clip = clip_depth(maps.depth.astype(np.float32) + maps.mean_depth)
    ambient = np.zeros((*maps.size, 2)) if maps.ambient is None else maps.ambient
    places = np.concatenate([maps.canonical, ambient], -1).astype(np.float32)
    share = np.where(inside, normalise_canonical(places) * 2 - 1, -1)
    parts = [
        np.where(inside, np.clip(clip, 0, 2)[..., None] - 1, -1),
        share[..., :3],
        maps.normal.astype(np.float32) / 127,
        share[..., 3:],
    ]
    return np.concatenate(parts, -1).transpose(2, 0, 1).astype(np.float32)
