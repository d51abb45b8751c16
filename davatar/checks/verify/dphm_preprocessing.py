"""Section E, as far as our tracker has its counterpart: depth to points, rigid fits, frames (spec dphm 0.3, 5.2, 5.3).

Our normals, cropping and pose start are our own and are judged by recordings, not by these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.fixture import array, holds, read_arrays, tensor
from davatar.geometry.camera import Camera, backproject
from davatar.tracking.neural.adam_energies import Variables, rotation_of
from davatar.tracking.pose import procrustes

POINTS = 1e-9  # m
FITS = 1e-9


def _depth(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    cx, cy, fx, fy = arrays["intrinsics_file"][:4]
    height, width = arrays["depth_mm"].shape
    camera = Camera.pinhole(fx, fy, cx, cy, width, height)
    points, _ = backproject(arrays["depth_mm"] / 1000.0, camera)
    yield compare(path.name, "points of a depth image", points, arrays["full_points"], POINTS)


def _geometry(path: Path) -> Iterator[Comparison]:
    arrays = read_arrays(path)
    for label, to, rotation, translation in (
        ("rigid fit", "sim_to", "rigid_R", "rigid_t"),
        ("rigid fit to a mirror image", "mirror_to", "mirror_rigid_R", "mirror_rigid_t"),
    ):
        found = procrustes(arrays["sim_from"], arrays[to], np.ones(len(arrays[to])))
        yield compare(path.name, f"{label}: rotation", found[0], arrays[rotation], FITS)
        yield compare(path.name, f"{label}: translation", found[1], arrays[translation], FITS)
    rotations = [array(rotation_of(tensor(quaternion))) for quaternion in arrays["quat_in"]]
    yield compare(path.name, "rotations of quaternions", np.array(rotations), arrays["quat_mat"], FITS)
    if {"space_x", "space_to_nphm", "crop_R"} <= arrays.keys():
        yield compare(path.name, "camera to head axes", _to_head(arrays), arrays["space_to_nphm"], FITS)


def _to_head(arrays: dict[str, np.ndarray]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(arrays["crop_R"]).as_quat()
    nothing = tensor(np.zeros(0))
    parts = (tensor(np.asarray(value)) for value in ([w, x, y, z], arrays["crop_t"], arrays["crop_c"]))
    return array(Variables(nothing, nothing, *parts).to_head(tensor(arrays["space_x"])))


CHECKS = (
    Check("dphm E", lambda path: holds(path, "E", {"depth_mm", "intrinsics_file", "full_points"}), _depth),
    Check("dphm E", lambda path: holds(path, "E", {"sim_from", "sim_to", "rigid_R", "quat_in", "quat_mat"}), _geometry),
)
