"""Samples of a data set as avatar frames: the thin adapter between `dataset` and the avatars.

A data set of a whole multiple of the avatar's resolution is averaged down; coverage and colour are averaged
alike, so the rim stays as finely sampled as the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from davatar.avatar.conditioning import HeadMaps, head_maps
from davatar.capture.frame import Frame
from davatar.core.errors import DataError
from davatar.core.progress import Progress, silent
from davatar.dataset.channels import decode
from davatar.dataset.crop import Crop
from davatar.dataset.framing import Framing, photograph
from davatar.dataset.geometry import cut_neck
from davatar.dataset.layout import SampleKey
from davatar.dataset.quantisers import camera_depth, denormalise_canonical
from davatar.dataset.rendering_data import RenderingData, Sample
from davatar.dataset.settings import RasterSettings
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.raster.maps import Rasterizer


class Frames(Sequence[HeadMaps]):
    """The frames of some samples, each read when first asked for and then kept.

    Args:
        told: which numbers the avatar is told: "weights" of the morphable model, or the head model's "codes".
    """

    def __init__(
        self, data: RenderingData, keys: Sequence[SampleKey], resolution: int, told: Literal["weights", "codes"]
    ):
        self.data, self.keys, self.resolution, self.told = data, list(keys), resolution, told
        self._kept: dict[int, HeadMaps] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> HeadMaps:
        if index not in self._kept:
            self._kept[index] = self.read(index)
        return self._kept[index]

    def read(self, index: int) -> HeadMaps:
        """Read a frame without keeping it.

        Raises:
            DataError: a file of the sample is missing or broken, or the sizes do not fit.
        """
        key = self.keys[index]
        return sample_maps(self.data.load(key), reference_rotation(self.data, key), self.resolution, self.told)

    def load_all(self, progress: Progress = silent) -> None:
        with progress.task("reading frames", len(self)) as task:
            for index in range(len(self)):
                self[index]
                task.advance()


def reference_rotation(data: RenderingData, key: SampleKey) -> np.ndarray:
    """[3, 3] world to the axes of the data set's first camera, which give directions their meaning."""
    return data.camera(key._replace(serial=data.config.serials[0])).world_to_camera[:3, :3]


def sample_maps(sample: Sample, reference: np.ndarray, resolution: int, told: Literal["weights", "codes"]) -> HeadMaps:
    """
    Raises:
        DataError: the sample lacks its camera or expression, or its size is no multiple of `resolution`.
    """
    name = "/".join(map(str, sample.key))
    expression = sample.weights if told == "weights" else sample.codes
    if sample.camera is None or not len(expression):
        raise DataError(
            f"{name} has no {'camera' if sample.camera is None else told}", mend="rasterize the track with davatar"
        )
    size = sample.mask.shape[0]
    if size % resolution:
        raise DataError(
            f"{name} is {size} pixels wide, the avatar paints {resolution}",
            mend=f"rasterize with a size of {resolution} or a multiple",
        )
    maps = head_maps(
        canonical=sample.canonical,
        normal=sample.normals,
        depth=sample.depth,
        mask=sample.mask,
        coverage=sample.coverage,
        expression=expression,
        world_to_camera=sample.camera.world_to_camera[:3, :3],
        world_to_reference=reference,
        image=sample.image,
        ambient=denormalise_canonical(sample.uv_ambient, first=3) * sample.mask[..., None],
        key=name,
    )
    return shrink(maps, size // resolution)


def mesh_maps(
    mesh: Mesh, camera: Camera, rasterizer: Rasterizer, rays: int, expression: np.ndarray, reference: np.ndarray
) -> HeadMaps:
    """A frame without a photograph, from a mesh in world metres; what the data set's own frames went through.

    Args:
        camera: square, at the avatar's resolution.
        rays: coverage rays per pixel and side.
        expression: what the avatar is told.
        reference: see `reference_rotation`.
    """
    settings = RasterSettings(size=camera.width, subpixels=rays)
    view = Framing(camera, Crop(0, 0, camera.width, camera.height), camera)
    codes = photograph(cut_neck(mesh), Frame(0, 0.0, camera), view, rasterizer, settings)
    found = {name: decode(name, values) for name, values in codes.items()}
    mask = found["mask"][..., None]
    return head_maps(
        canonical=denormalise_canonical(found["uv"]) * mask,
        normal=found["normals"],
        depth=np.where(found["mask"], camera_depth(found["depths"]), 0),
        mask=found["mask"],
        coverage=found["coverage"],
        expression=expression,
        world_to_camera=camera.world_to_camera[:3, :3],
        world_to_reference=reference,
        ambient=denormalise_canonical(found["uv_ambient"], first=3) * mask,
    )


def shrink(maps: HeadMaps, factor: int) -> HeadMaps:
    """Average blocks of factor x factor pixels; surface values over those pixels of a block that have one."""
    if factor == 1:
        return maps
    height, width = (side // factor for side in maps.size)

    def blocks(values: np.ndarray) -> np.ndarray:
        cut = values.astype(np.float32).reshape(height, factor, width, factor, *values.shape[2:])
        return np.moveaxis(cut, 2, 1).reshape(height, width, factor * factor, *values.shape[2:])

    inside = blocks(maps.mask)
    count = np.maximum(inside.sum(2), 1)

    def surface(values: np.ndarray) -> np.ndarray:
        weights = inside if values.ndim == 2 else inside[..., None]
        return (blocks(values) * weights).sum(2) / (count if values.ndim == 2 else count[..., None])

    normal = surface(maps.normal)
    normal *= 127 / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    return replace(
        maps,
        canonical=surface(maps.canonical).astype(np.float16),
        normal=np.round(normal).astype(np.int8),
        depth=surface(maps.depth).astype(np.float16),
        mask=inside.any(2),
        coverage=np.round(blocks(maps.coverage).mean(2)).astype(np.uint8),
        ambient=None if maps.ambient is None else surface(maps.ambient).astype(np.float16),
        image=None if maps.image is None else np.round(blocks(maps.image).mean(2)).astype(np.uint8),
    )
