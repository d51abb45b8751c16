"""Sampled heads as files: meshes, codes, one picture of all of them, a video that walks past them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from davatar.core.errors import UsageError, listed
from davatar.core.files import check_output_file, check_output_folder, write_bytes
from davatar.core.progress import Progress, silent
from davatar.geometry.gltf import write_glb
from davatar.geometry.mesh import Mesh, write_ply
from davatar.headmodel.head_model import HeadModel
from davatar.prior.code_prior import CodePrior
from davatar.prior.heads import SampledCodes, meshes, morphable_meshes
from davatar.prior.portrait import Rasterizes, portrait, sheet
from davatar.prior.sample_folder import CODES, SHEET, mesh_name, start_folder

MeshFormat = Literal["ply", "glb"]
VIEWS = (0.0, 50.0)  # degrees a head is turned in the two pictures of it
PICTURE = 224  # px
PREVIEW_STEPS, PREVIEW_RESOLUTION = 20, 48


class Video(Protocol):
    def add(self, image: np.ndarray) -> None:
        """[H, W, 3] uint8, the same even size every time."""


VideoWriter = Callable[[Path, float], AbstractContextManager[Video]]  # (file, frames per second)


def check_files(grid: str | Path | None, video: str | Path | None, folder: str | Path | None = None) -> None:
    """
    Raises:
        UsageError: a name that is no picture or video file; a folder where a file is to be written, or the reverse.
    """
    if grid is not None and Path(grid).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError("is no picture file", file=grid, mend="end its name in .png or .jpg")
    if video is not None and Path(video).suffix.lower() != ".mp4":
        raise UsageError("is no video file", file=video, mend="end its name in .mp4")
    for file in (grid, video):
        if file is not None:
            check_output_file(file)
    if folder is not None:
        check_output_folder(folder)


def write_heads(
    folder: str | Path,
    head: HeadModel,
    codes: SampledCodes,
    resolution: int,
    rasterizer: Rasterizes,
    progress: Progress = silent,
    formats: tuple[MeshFormat, ...] = ("ply", "glb"),
    grid: str | Path | None = None,
    picture_size: int = PICTURE,
) -> dict[str, Path]:
    """Meshes `00000.ply`, `00000.glb`... (m), `codes.npz`, and a picture: every head from the front and from its left.

    Args:
        grid: file of the picture (.png or .jpg); None: `heads.png` in the folder.

    Returns:
        "codes", "picture" and "meshes" (the folder) -> path.

    Raises:
        UsageError: `grid` is no picture file, `folder` a file, or it holds files of these names that no earlier run
            made; those that one made are removed first.
    """
    check_files(grid, None, folder)
    folder = Path(folder)
    writes = {mesh_name(k, format) for k in range(len(codes)) for format in formats}
    grid = folder / SHEET if grid is None else Path(grid)
    if grid.resolve().parent == folder.resolve():
        writes.add(grid.name)
    if replaced := start_folder(folder, codes, head.hash, writes):
        progress.info(f"{folder}: removed what an earlier run wrote there: {listed(replaced, 3)}")
    pictures = []
    for k, mesh in enumerate(meshes(head, codes, resolution, progress)):
        for format, write in (("ply", write_ply), ("glb", write_glb)):
            if format in formats:
                write(folder / mesh_name(k, format), mesh)
        pictures += _views(mesh, rasterizer, picture_size)
    _write_picture(grid, sheet(pictures, _columns(len(codes))))
    return {"meshes": folder, "codes": folder / CODES, "picture": grid}


def write_walk(
    path: str | Path,
    head: HeadModel,
    codes: SampledCodes,
    resolution: int,
    rasterizer: Rasterizes,
    writer: VideoWriter,
    fps: float = 12.0,
    progress: Progress = silent,
    picture_size: int = 256,
) -> Path:
    """A video of heads that follow each other smoothly, from the front and from their left.

    Args:
        codes: a walk (`heads.sample_codes`, `between` above 1), one frame each.

    Raises:
        UsageError: `path` is no .mp4, or a folder.
    """
    check_files(None, path)
    path = Path(path)
    with writer(path, fps) as video:
        for mesh in meshes(head, codes, resolution, progress, follow=True):
            video.add(np.concatenate(_views(mesh, rasterizer, picture_size), axis=1))
    return path


def preview(path: Path, prior: CodePrior, head: HeadModel, rasterizer: Rasterizes, n: int, seed: int) -> None:
    """A quick sheet of `n` samples: morphable meshes where the codes stand for some, else coarse surfaces."""
    codes = SampledCodes.of(prior.kind, prior.sample(n, min(PREVIEW_STEPS, prior.steps), seed), head)
    made = meshes(head, codes, PREVIEW_RESOLUTION) if head.maps is None else morphable_meshes(head, codes)
    pictures = [view for mesh in made for view in _views(mesh, rasterizer, PICTURE)]
    _write_picture(path, sheet(pictures, _columns(n)))


def _views(mesh: Mesh, rasterizer: Rasterizes, size: int) -> list[np.ndarray]:
    return [portrait(mesh, rasterizer, size, yaw) for yaw in VIEWS]


def _columns(heads: int) -> int:
    """Pictures per row, two per head: rows of one to four heads."""
    return len(VIEWS) * min(4, max(1, -(-heads // 2)))


def _write_picture(path: Path, image: np.ndarray) -> None:
    import cv2

    write_bytes(path, cv2.imencode(path.suffix.lower(), image[..., ::-1])[1].tobytes())
