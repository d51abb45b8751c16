import numpy as np

from davatar.avatar.trajectories import around, orbit, shake
from davatar.geometry.camera import Camera


def test_shake_is_the_published_one(shared):
    golden = np.load(shared / "golden" / "diffusion_avatars" / "C_cameras.npz")
    np.testing.assert_allclose(shake(12), golden["shake_c2w_local"], atol=2e-6)  # theirs are float32


def test_orbit_keeps_its_distance_and_looks_at_the_middle():
    poses = orbit(20, distance=0.8)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), 0.8)
    np.testing.assert_allclose(poses[:, :3, :3] @ [0, 0, 0.8] + poses[:, :3, 3], 0, atol=1e-12)


def test_cameras_on_a_path_show_the_head_as_wide_as_the_reference():
    view = Camera.pinhole(400, 400, 63.5, 63.5, 128, 128)
    head = np.diag([1.0, -1.0, -1.0, 1.0])  # faces the camera
    head[:3, 3] = [0.05, 0.0, 0.7]
    center = np.array([0.0, 0.02, 0.0])
    for camera in around(view, center, head, orbit(5)):
        pixel, depth = camera.project(head[:3, :3] @ center + head[:3, 3])
        np.testing.assert_allclose(pixel, [63.5, 63.5], atol=1e-9)
        np.testing.assert_allclose(camera.K[0, 0] / depth, 400 / (0.7), rtol=1e-3)
        np.testing.assert_allclose(np.linalg.det(camera.world_to_camera[:3, :3]), 1)
