"""Section B: surfaces of signed distance fields (spec dphm 2).

Meshes are compared as sets: every vertex to the nearest stored one and back, the number of triangles, area and
signed volume (positive = outward), because the order of faces is the extractor's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.dphm_decoder import build_decoder, mean_anchors, shared_decoder
from davatar.checks.verify.fixture import array, beside, described, holds, read_arrays, tensor
from davatar.core.errors import DataError
from davatar.geometry.surface import extract_surface
from davatar.headmodel.head_model import GRID
from davatar.headmodel.nphm import NPHM

VERTICES = 1e-6  # head-model units; another extractor agreed to 6e-8
VALUES = 2e-5  # float32
SIZES = 1e-4  # relative, of area and volume: extractors cut flat cells along either diagonal


def dense_points(resolution: int) -> np.ndarray:
    """[res³, 3] the extraction box sampled per axis, ends included; x slowest, z fastest."""
    axes = [np.linspace(GRID[0, c], GRID[1, c], resolution) for c in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def lookup(values: np.ndarray, resolution: int) -> Callable[[np.ndarray], np.ndarray]:
    """A field that knows its values at the lattice points only."""
    step = (GRID[1] - GRID[0]) / (resolution - 1)

    def field(points: np.ndarray) -> np.ndarray:
        index = np.rint((points - GRID[0]) / step).astype(int)
        return values[np.ravel_multi_index(tuple(index.T), (resolution,) * 3)]

    return field


def area_and_volume(vertices: np.ndarray, triangles: np.ndarray) -> tuple[float, float]:
    a, b, c = (vertices[triangles[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    return float(area), float(np.einsum("nc,nc->", a, np.cross(b, c)) / 6)


def _same_mesh(
    name: str, label: str, found: tuple[np.ndarray, np.ndarray], vertices: np.ndarray, triangles: np.ndarray
) -> Iterator[Comparison]:
    from scipy.spatial import cKDTree

    away = [cKDTree(one).query(other)[0].max() for one, other in ((found[0], vertices), (vertices, found[0]))]
    yield compare(name, f"{label} vertices", np.array(away), np.zeros(2), VERTICES)
    counts = [np.array([len(part) for part in mesh]) for mesh in (found, (vertices, triangles))]
    yield compare(name, f"{label} numbers of vertices and triangles", *counts, 0)
    sizes = [area_and_volume(*mesh) for mesh in (found, (vertices, triangles))]
    yield compare(name, f"{label} area", np.array(sizes[0][0]), np.array(sizes[1][0]), SIZES, relative=True)
    yield compare(name, f"{label} volume", np.array(sizes[0][1]), np.array(sizes[1][1]), SIZES, relative=True)


def _model(path: Path, anchors: int) -> tuple[NPHM, torch.Tensor, torch.Tensor]:
    """The head model of the folder's tracking fixtures, with the codes their surfaces were made from."""
    source = beside(path, "D", {"config", "gt_geo", "gt_exp", "order"}, without={"init_t"})
    if source is None:
        raise DataError("the codes that it was made with do not lie beside it (gt_geo, gt_exp)", file=path)
    arrays = read_arrays(source)
    about, size = described(arrays)["decoder"], arrays["gt_geo"].shape[-1]
    model = build_decoder(shared_decoder(path, size), about, size, mean_anchors(path, anchors), torch.float32)
    return model, tensor(arrays["gt_geo"])[0], tensor(arrays["gt_exp"])[0]


def _extraction(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    small = round(len(arrays["grid_res5"]) ** (1 / 3))
    yield compare(path.name, "grid order", dense_points(small), arrays["grid_res5"], 1e-6)
    logits = arrays["analytic_logits"]
    resolution = round(len(logits) ** (1 / 3))
    found = extract_surface(lookup(logits, resolution), GRID, resolution)
    yield from _same_mesh(path.name, "analytic", found, arrays["analytic_vertices"], arrays["analytic_faces"])

    model, identity, expression = _model(path, arrays["anchors"].shape[-2])
    yield compare(path.name, "anchors", array(model.identity.anchors(identity)), arrays["anchors"], VALUES)
    resolution = int(arrays["model_res"])

    @torch.no_grad()
    def field(points: np.ndarray) -> np.ndarray:
        return array(model(tensor(points, torch.float32)[None], identity, expression)[0])

    dense = np.concatenate([field(part) for part in np.array_split(dense_points(resolution), 8)])
    yield compare(path.name, "model field on the grid", dense, arrays["model_logits"], VALUES, relative=True)
    # The stored field is extracted: one that differs by rounding would move vertices by rounding over its steepness.
    found = extract_surface(lookup(arrays["model_logits"], resolution), GRID, resolution)
    yield from _same_mesh(path.name, "model", found, arrays["model_vertices"], arrays["model_faces"])
    sizes = area_and_volume(*found)
    for name, value in zip(("area", "volume"), sizes, strict=True):
        yield compare(
            path.name, f"model {name}, stored", np.array(value), arrays[f"model_{name}"], SIZES, relative=True
        )


CHECKS = (
    Check("dphm B", lambda path: holds(path, "B", {"grid_res5", "analytic_logits", "model_logits"}), _extraction),
)
