"""Sampled codes as heads one can look at: meshes and one picture of all of them.

Meshes come from the head model and leave in metres, in the head's own axes (+x the subject's left,
+y up, +z out of the face). The rasteriser is handed in; this module only places cameras and light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import DataError
from davatar.core.files import atomic_path, write_bytes
from davatar.core.progress import Progress, silent
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh, write_ply
from davatar.headmodel.head_model import HeadModel
from davatar.prior.code_prior import CodePrior, Sampler

DISTANCE = 0.9  # m from the camera to the head
SIZE = 0.32  # m of the head that a picture shows
MIDDLE = np.array([0.0, 0.02, -0.06])  # m, head axes: what the camera looks at and the head turns about
LIGHT = np.array([0.35, 0.45, 0.82])  # towards the light, camera's side


@dataclass(frozen=True)
class SampledCodes:
    identity: Tensor  # [n, Di]
    expression: Tensor  # [n, De]


def sample_codes(
    head: HeadModel,
    identity: CodePrior | None,
    expression: CodePrior | None,
    n: int,
    steps: int = 50,
    seed: int = 0,
    sampler: Sampler = "dpm",
) -> SampledCodes:
    """Codes of `n` heads; without a prior that code is zero (mean identity, neutral expression).

    Raises:
        DataError: a prior was trained for codes of another size.
        UsageError: fewer than one sample.
    """

    def draw(prior: CodePrior | None, size: int, salt: int) -> Tensor:
        if prior is None:
            return torch.zeros(n, size)
        if prior.code_size != size:
            raise DataError(
                f"the {prior.kind} prior makes codes of {prior.code_size} numbers, the head model takes {size}",
                mend="take the prior that was trained for this head model",
            )
        return prior.sample(n, steps, seed + salt, sampler)

    if identity is not None and identity.kind == "joint":
        both = draw(identity, head.identity_size + head.expression_size, 0)
        return SampledCodes(both[:, : head.identity_size], both[:, head.identity_size :])
    return SampledCodes(draw(identity, head.identity_size, 0), draw(expression, head.expression_size, 10**6))


def meshes(head: HeadModel, codes: SampledCodes, resolution: int, progress: Progress = silent) -> Iterator[Mesh]:
    """Surface of each head, m; one after the other, so that memory stays that of one.

    Args:
        resolution: samples per axis of the head model's box.
    """
    with progress.task("head meshes", len(codes.identity)) as task:
        for identity, expression in zip(codes.identity, codes.expression, strict=True):
            mesh = head.mesh(identity, expression, resolution)
            yield mesh.transformed(np.eye(3), np.zeros(3), float(head.frame[0, 0]))
            task.advance()


class Rasterizes(Protocol):
    def rasterize(self, mesh: Mesh, camera: Camera):
        """Maps with `normal` [H, W, 3] in the mesh's frame and `mask` [H, W]."""


def portrait(mesh: Mesh, rasterizer: Rasterizes, size: int = 256, yaw: float = 0.0) -> np.ndarray:
    """A grey, lit picture of a head on white.

    Args:
        mesh: m, head axes.
        yaw: degrees the head is turned to its left.

    Returns:
        [size, size, 3] uint8.
    """
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    to_camera = np.eye(4)
    to_camera[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ turn
    to_camera[:3, 3] = [0, 0, DISTANCE] - to_camera[:3, :3] @ MIDDLE
    focal = size / SIZE * DISTANCE
    maps = rasterizer.rasterize(
        mesh, Camera.pinhole(focal, focal, size / 2 - 0.5, size / 2 - 0.5, size, size, to_camera)
    )
    towards = turn.T @ (LIGHT / np.linalg.norm(LIGHT))
    light = 0.25 + 0.75 * np.clip(maps.normal @ towards, 0, 1)
    grey = np.where(maps.mask, light * 235, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows of `columns`; the last row is filled up with white."""
    rows = -(-len(pictures) // columns)
    height, width, _ = pictures[0].shape
    out = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        row, column = divmod(k, columns)
        out[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return out


def write_heads(
    folder: str | Path,
    head: HeadModel,
    codes: SampledCodes,
    resolution: int,
    rasterizer: Rasterizes,
    progress: Progress = silent,
    picture_size: int = 224,
) -> dict[str, Path]:
    """Meshes `00000.ply`... (m), `codes.npz`, and `heads.png`: every head from the front and from its left.

    Returns:
        "codes", "picture" and "meshes" (the folder) -> path.
    """
    import cv2

    folder = Path(folder)
    pictures = []
    for k, mesh in enumerate(meshes(head, codes, resolution, progress)):
        write_ply(folder / f"{k:05d}.ply", mesh)
        pictures += [portrait(mesh, rasterizer, picture_size, yaw) for yaw in (0.0, 50.0)]
    arrays = {"identity": codes.identity.numpy(), "expression": codes.expression.numpy(), "head_model": head.hash}
    with atomic_path(folder / "codes.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    columns = 2 * min(4, -(-len(pictures) // 4)) if len(pictures) > 2 else len(pictures)
    image = sheet(pictures, columns)
    write_bytes(folder / "heads.png", cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    return {"meshes": folder, "codes": folder / "codes.npz", "picture": folder / "heads.png"}
