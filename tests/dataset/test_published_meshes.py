"""The published tracker's meshes against the golden fixtures (shared/golden/diffusion_avatars, C_mesh)."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import pytest

from davatar.core.errors import DataError
from davatar.dataset.ctm import read_ctm
from davatar.dataset.layout import MeshConfig
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.published_meshes import PublishedMeshes, angle_normals, cut_throat
from davatar.geometry.mesh import Mesh

SETTINGS = MeshConfig(nphm_tracking="NPHM_TEMPORAL_NECK_LMS", cut_throat=True, cut_throat_margin=-0.05)


@pytest.fixture
def golden(shared):
    return shared / "golden" / "diffusion_avatars"


@pytest.fixture
def meshes(golden):
    return PublishedMeshes(RawParticipant(golden / "data" / "nersemble" / "055"), "EXP-1-head", SETTINGS)


def triangles_of(triangles) -> set[tuple[int, ...]]:
    """Order and rotation of triangles do not survive the file."""
    return {tuple(np.roll(one, -int(np.argmin(one))).tolist()) for one in triangles}


def test_stored_meshes_are_cut_and_brought_to_the_world(golden, meshes):
    wanted = np.load(golden / "C_mesh.npz")
    file = meshes.folder / "NPHM_temp_wNeck_wLMs" / "00000_local_new.CTM"
    vertices, triangles = read_ctm(file)
    np.testing.assert_allclose(vertices, wanted["raw_vertices"], atol=1e-7)
    assert triangles_of(triangles) == triangles_of(wanted["raw_faces"])
    local, world = meshes.local(0), meshes.mesh(0)
    np.testing.assert_allclose(local.vertices, wanted["cut_vertices_local"], atol=1e-12)
    np.testing.assert_array_equal(local.canonical, wanted["cut_canonical"])
    assert triangles_of(local.triangles) == triangles_of(wanted["cut_faces"])
    np.testing.assert_allclose(world.vertices, wanted["world_vertices"], atol=1e-7)
    np.testing.assert_allclose(angle_normals(world.vertices, world.triangles), wanted["world_normals"], atol=1e-6)
    np.testing.assert_allclose(meshes.flame_to_world(0), wanted["flame_2_world"], atol=1e-6)


def test_raw_meshes_are_read_too(tmp_path):
    index, place = np.array([[0, 1, 2]], "<u4"), np.arange(9, dtype="<f4")
    head = struct.pack("<4sI4sIIIIII", b"OCTM", 5, b"RAW\0", 3, 1, 0, 0, 0, 2) + b"hi"
    (tmp_path / "a.ctm").write_bytes(head + b"INDX" + index.tobytes() + b"VERT" + place.tobytes())
    vertices, triangles = read_ctm(tmp_path / "a.ctm")
    assert vertices.tolist() == place.reshape(3, 3).tolist() and triangles.tolist() == [[0, 1, 2]]


def test_a_cut_that_meets_nothing_leaves_the_mesh_alone():
    mesh = Mesh(np.eye(3), np.array([[0, 1, 2]]), np.eye(3, 5))
    assert cut_throat(mesh, np.array([0.0, -5, 0]), np.array([0.0, 1, 0]), 0.0) is mesh


def test_damaged_files_are_named(golden, tmp_path):
    person = tmp_path / "055"
    shutil.copytree(golden / "data" / "nersemble" / "055", person, copy_function=shutil.copyfile)
    meshes = PublishedMeshes(RawParticipant(person), "EXP-1-head", SETTINGS)
    file = meshes.folder / "NPHM_temp_wNeck_wLMs" / "00003_local_new.CTM"
    whole = file.read_bytes()
    for damaged in (whole[:-300], b"PNG" + whole, whole[:40]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="00003_local_new.CTM.*is not a readable CTM mesh"):
            meshes.mesh(3)
    with pytest.raises(DataError, match="00009_local_new.CTM: is missing"):
        meshes.mesh(9)
    (person / "flame.ply").write_text("ply")
    with pytest.raises(DataError, match="flame.ply: is no FLAME mesh"):
        meshes.mesh(0)
