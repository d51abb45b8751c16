"""Synthetic people as avatar frames: pictures with the maps that a tracker of some accuracy would deliver.

For the shipped base and for measurements. Geometry is exact, or displaced by smooth random fields that
stand for a tracker's errors. Metres, studio world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from davatar.avatar.conditioning import HeadMaps, head_maps
from davatar.capture.synthetic.subject import Subject
from davatar.capture.synthetic.view import film
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.headmodel.canonical import canonical_vertices
from davatar.raster.embree import EmbreeRasterizer

WAVES = 24  # plane waves per field


@dataclass(frozen=True)
class SmoothField:
    """A smooth random displacement in space: a sum of plane waves."""

    waves: np.ndarray  # [K, 3] rad per m
    phases: np.ndarray  # [K]
    amplitudes: np.ndarray  # [K, 3] m

    @staticmethod
    def sample(rng: np.random.Generator, deviation: float, wavelength: float) -> SmoothField:
        """`deviation` m is the standard deviation of each component, `wavelength` m its typical period."""
        directions = rng.normal(size=(WAVES, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = wavelength * np.exp(rng.uniform(-0.3, 0.3, (WAVES, 1)))
        amplitudes = rng.normal(size=(WAVES, 3)) * deviation * np.sqrt(2 / WAVES)
        return SmoothField(2 * np.pi / lengths * directions, rng.uniform(0, 2 * np.pi, WAVES), amplitudes)

    def at(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] points m -> [..., 3] displacement m."""
        return np.sin(points @ self.waves.T + self.phases) @ self.amplitudes


def tracker_error(rng: np.random.Generator, size: float) -> tuple[SmoothField, SmoothField]:
    """Two fields like a tracker's errors: broad and local; at `size` 1 about 1.9 mm of displacement."""
    return SmoothField.sample(rng, 0.0010 * size, 0.09), SmoothField.sample(rng, 0.0005 * size, 0.025)


class Filming:
    """Films one subject; keeps what does not change between frames."""

    def __init__(self, subject: Subject, reference: Camera, size: int, supersample: int = 3):
        self.subject, self.reference, self.size, self.supersample = subject, reference, size, supersample
        self.canonical = canonical_vertices(subject.template.model, subject.identity)
        self.rasterizer = EmbreeRasterizer()

    def mesh(self, weights: np.ndarray, head_to_world: np.ndarray, errors: Sequence[SmoothField] = ()) -> Mesh:
        """What a tracker delivers: world metres, canonical coordinates.

        Args:
            weights: [53] expression weights.
            head_to_world: [4, 4] rigid.
            errors: displacements of the mesh, in the head's frame.
        """
        exact = self.subject.condition_mesh(weights)
        vertices = exact.vertices + sum(field.at(exact.vertices) for field in errors)
        world = vertices @ head_to_world[:3, :3].T + head_to_world[:3, 3]
        return Mesh(world, exact.triangles, self.canonical)

    def pictures(
        self, weights: np.ndarray, gaze: np.ndarray, head_to_world: np.ndarray, cameras: Sequence[Camera]
    ) -> list[np.ndarray]:
        """[H, W, 3] uint8 on white, one per camera."""
        posed = self.subject.pose(weights, gaze)
        square = [camera.resized(self.size, self.size) for camera in cameras]
        return [film(posed, head_to_world, camera, self.supersample).color for camera in square]

    def maps(
        self, mesh: Mesh, weights: np.ndarray, camera: Camera, picture: np.ndarray | None = None, key: str = ""
    ) -> HeadMaps:
        """One frame as the avatar sees it; `weights` [53] is what it is told."""
        camera = camera.resized(self.size, self.size)
        maps = self.rasterizer.rasterize(mesh, camera, subpixels=self.supersample)
        return head_maps(
            canonical=maps.canonical,
            normal=maps.normal,
            depth=maps.depth,
            mask=maps.mask,
            coverage=maps.coverage,
            expression=weights,
            world_to_camera=camera.world_to_camera[:3, :3],
            world_to_reference=self.reference.world_to_camera[:3, :3],
            image=picture,
            key=key,
        )


def stack_frames(frames: list[HeadMaps]) -> dict[str, np.ndarray]:
    """Arrays of several frames of one size, for `np.savez`."""
    names = [name for name, value in vars(frames[0]).items() if value is not None and name != "key"]
    arrays = {name: np.stack([getattr(maps, name) for maps in frames]) for name in names}
    return {**arrays, "key": np.array([maps.key for maps in frames])}


def unstack_frames(arrays: dict[str, np.ndarray]) -> list[HeadMaps]:
    """What `stack_frames` made."""
    plain = {"key": str, "mean_depth": float}
    rows = range(len(arrays["mask"]))
    return [HeadMaps(**{k: plain.get(k, lambda x: x)(v[row]) for k, v in arrays.items()}) for row in rows]
