"""A whole synthetic recording on disk: the plain RGB-D folder (design 5), further views, and the truth.

    recipe.json                what was asked for; a folder holds one recipe
    meta.json, intrinsics.json written last: a folder without meta.json is not finished
    depth/ color/ alpha/       the first camera: 16-bit mm, 8-bit RGB on white, 8-bit coverage
    landmarks/                 optional: 68 points in pixels, with the noise of a detector
    views/<serial>/            color/ alpha/ camera.json of every other camera
    gt/params.npz, topology.npz, labels/

World of the recording: the first camera's axes, metres. Every file is written whole and depends only on the
seed and its own frame: a recording that was killed goes on where it stopped and ends up the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from davatar.capture.calibration import camera_json
from davatar.capture.images import write_png
from davatar.capture.synthetic.rig import Rig
from davatar.capture.synthetic.script import ExpressionScript
from davatar.capture.synthetic.sensor import SensorNoise, fixed_pattern, measure
from davatar.capture.synthetic.subject import Subject
from davatar.capture.synthetic.view import View, film
from davatar.core.errors import DataError
from davatar.core.files import atomic_path, read_json, write_json
from davatar.core.interrupt import interruptible
from davatar.core.progress import Progress, silent
from davatar.geometry.camera import Camera

LANDMARK_OFFSET, LANDMARK_NOISE = 0.7, 0.9  # px: fixed per point, and per frame
_MOVED = 0.0002  # m: vertices displaced by more than this (hair, beard, eyes) are no truth of the linear model


def record(
    folder: str | Path,
    subject: Subject,
    script: ExpressionScript,
    rig: Rig,
    *,
    noise: SensorNoise | float = 1.0,
    seed: int = 0,
    supersample: int = 3,
    landmarks: bool = False,
    name: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Film the script with the rig and write the recording.

    Args:
        folder: made if absent; may hold a part of the same recording.
        noise: of the depth sensor, or the scale of the usual one; 0 = perfect but for rounding.
        seed: of noise and landmarks.
        supersample: n of the n x n sub-rays per pixel.
        landmarks: also write 68 noisy landmarks of the first camera per frame.
        name: of the recording; the folder's if None.

    Returns:
        the folder.

    Raises:
        DataError: the folder holds another recording or other files.
        Interrupted: a signal arrived; the pictures taken so far are kept.
        ResourceError: the disk is full.
    """
    folder = Path(folder)
    noise = noise if isinstance(noise, SensorNoise) else SensorNoise(scale=float(noise))
    recipe = _recipe(subject, script, rig, noise, seed, supersample, landmarks)
    _claim(folder, recipe)
    depth_camera = rig.cameras[0]
    pattern = fixed_pattern(noise, (depth_camera.height, depth_camera.width), np.random.default_rng([seed, 1]))
    with (
        interruptible("run the same command again: the recording goes on where it stopped") as stop,
        progress.task("recording", total=len(script) * len(rig)) as task,
    ):
        for t in range(len(script)):
            posed = None
            for k, (camera, serial) in enumerate(zip(rig.cameras, rig.serials, strict=True)):
                files = _files(folder, serial if k else None, t)
                if not all(file.exists() for file in files.values()):
                    posed = posed or subject.pose(script.weights[t], script.gaze[t])
                    view = film(posed, script.head_to_world[t], camera, supersample)
                    if k == 0:
                        rng = np.random.default_rng([seed, 2, t])
                        write_png(files["labels"], view.label)
                        write_png(files["depth"], measure(view, noise, pattern, rng))
                    _write_pictures(files, view)
                task.advance()
                stop.check()
        if landmarks:
            _write_landmarks(folder, subject, script, depth_camera, seed)
        _write_truth(folder / "gt", subject, script, depth_camera)
        for camera, serial in zip(rig.cameras[1:], rig.serials[1:], strict=True):
            relative = camera.moved(camera.world_to_camera @ depth_camera.camera_to_world)
            write_json(folder / "views" / serial / "camera.json", camera_json(relative))
        _write_meta(folder, name or folder.resolve().name, script, rig, noise, landmarks, recipe)
    return folder


def _recipe(subject, script, rig, noise, seed, supersample, landmarks) -> dict:
    """Everything that the files depend on; arrays as digests."""

    def digest(*arrays: np.ndarray) -> str:
        whole = hashlib.sha256()
        for array in arrays:
            whole.update(f"{array.shape}{array.dtype}".encode())
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()[:24]

    cameras = [m for c in rig.cameras for m in (c.K, c.world_to_camera, np.array([c.width, c.height]))]
    return {
        "kind": "synthetic",
        "subject": {
            "seed": subject.seed,
            "detail": subject.detail,
            "identity": digest(subject.identity),
            "surface": digest(subject.neutral, subject.paint.values),
        },
        "script": {
            "frames": len(script),
            "fps": script.fps,
            "content": digest(script.weights, script.gaze, script.head_to_world),
        },  # fmt: skip
        "rig": {"serials": list(rig.serials), "content": digest(*cameras)},
        "noise": asdict(noise),
        "seed": seed,
        "supersample": supersample,
        "landmarks": landmarks,
    }


def _claim(folder: Path, recipe: dict) -> None:
    file = folder / "recipe.json"
    if file.exists():
        differs = sorted(k for k, v in json.loads(json.dumps(recipe)).items() if read_json(file).get(k) != v)
        if differs:
            raise DataError(
                f"holds another recording (it differs in {', '.join(differs)})",
                file=folder,
                mend="record into another folder, or remove this one",
            )
    elif folder.exists() and any(folder.iterdir()):
        raise DataError("is not empty and holds no recording of ours", file=folder, mend="record into another folder")
    else:
        write_json(file, recipe)


def _files(folder: Path, serial: str | None, t: int) -> dict[str, Path]:
    """Pictures of one camera at one instant; `serial` None = the first camera."""
    if serial is None:
        places = {"depth": folder, "color": folder, "alpha": folder, "labels": folder / "gt"}
    else:
        places = dict.fromkeys(("color", "alpha"), folder / "views" / serial)
    return {kind: place / kind / f"{t:05d}.png" for kind, place in places.items()}


def _write_pictures(files: dict[str, Path], view: View) -> None:
    write_png(files["alpha"], np.rint(255 * view.alpha).astype(np.uint8))
    write_png(files["color"], view.color)


def _write_landmarks(folder: Path, subject: Subject, script: ExpressionScript, camera: Camera, seed: int) -> None:
    offset = np.random.default_rng([seed, 3]).normal(0, LANDMARK_OFFSET, (68, 2))
    rows = subject.template.model.landmarks
    for t in range(len(script)):
        pose = script.head_to_world[t]
        points = subject.vertices(script.weights[t])[rows] @ pose[:3, :3].T + pose[:3, 3]
        jitter = np.random.default_rng([seed, 4, t]).normal(0, LANDMARK_NOISE, (68, 2))
        pixels = (camera.project(points)[0] + offset + jitter).astype(np.float32)
        with atomic_path(folder / "landmarks" / f"{t:05d}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, pixels)


def _write_truth(folder: Path, subject: Subject, script: ExpressionScript, camera: Camera) -> None:
    """gt/ as in the simulated recordings: vertices = pose @ (linear head + displacement), metres, camera axes."""
    model = subject.template.model
    linear = model.neutral + np.tensordot(subject.identity, model.identity, axes=1)
    displacement = (subject.neutral - linear).astype(np.float32)
    true = np.linalg.norm(displacement, axis=1) < _MOVED
    params = {
        "identity": subject.identity,
        "expression": script.weights,
        "expression_names": np.array(model.expression_names),
        "head_pose": camera.world_to_camera @ script.head_to_world,
        "body_pose": np.eye(4),  # nothing follows it: head_weight is 1 everywhere
        "gaze": script.gaze,
        "displacement": displacement,  # [V, 3] m by which hair, beard and fitted eyes leave the linear head
    }
    names = {"ears", "lips", "nose", "eyelids", "scalp"} & model.sets.keys()
    topology = {name: model.sets[name].astype(np.int32) for name in sorted(names)}
    face = model.sets["front_face"]
    topology["face"] = face[true[face]].astype(np.int32)
    topology["eyes"] = np.concatenate([eye.vertices for eye in subject.template.eyes]).astype(np.int32)
    topology["landmarks68"] = model.landmarks.astype(np.int32)
    topology["head_weight"] = np.ones(len(model.neutral), np.float32)
    for stem, arrays in (("params", params), ("topology", topology)):
        with atomic_path(folder / f"{stem}.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)


def _write_meta(folder, name, script, rig, noise, landmarks, recipe) -> None:
    camera = rig.cameras[0]
    intrinsics = {
        "width": camera.width,
        "height": camera.height,
        "fx": camera.K[0, 0],
        "fy": camera.K[1, 1],
        "cx": camera.K[0, 2],
        "cy": camera.K[1, 2],
        "convention": "pixel centres at integer coordinates; x right, y down, z forward; depth and colour share it",
    }
    write_json(folder / "intrinsics.json", intrinsics)
    meta = {
        "name": name,
        "kind": "rgbd_folder",
        "real_capture": False,
        "serial": rig.serials[0],
        "depth_scale": 1 / noise.step,
        "num_frames": len(script),
        "fps": script.fps,
        "landmarks": landmarks,
        "views": list(rig.serials[1:]),
        "subject_seed": recipe["subject"]["seed"],
        "noise_scale": noise.scale,
        "background": "white",  # the colour pictures are composited: soft edges hold white already
    }
    write_json(folder / "meta.json", meta)
