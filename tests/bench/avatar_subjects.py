"""Synthetic people filmed by a rig of sixteen cameras, for measurements of avatars.

Six sequences train, eight of fifteen cameras at each instant; two further sequences ("motion") and the
sixteenth camera ("view") are held out. The geometry is

    exact   that of the pictures
    noisy   displaced like a tracker's, newly for every instant
    gaze    exact, of people whose lids do not follow their eyes: where they look is told by the expression code alone
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.synthetic_frames import Filming, stack_frames, tracker_error, unstack_frames
from davatar.capture.synthetic.rig import Rig
from davatar.capture.synthetic.script import ExpressionScript
from davatar.capture.synthetic.subject import Subject
from davatar.core.files import atomic_path
from davatar.evaluation.baselines import Stance
from davatar.headmodel.morphable import open_morphable

SIZE = 128
TRAINING_SEQUENCES, TEST_SEQUENCES, FRAMES = 6, 2, 10
CAMERAS_PER_INSTANT = 8
SPLITS = ("train", "view", "motion")
GEOMETRIES = ("exact", "noisy", "gaze")


def performance(names: tuple[str, ...], seed: int, sequence: int) -> ExpressionScript:
    """Six seconds of acting."""
    return ExpressionScript.performance(names, frames=FRAMES, seed=1000 * seed + sequence, fps=FRAMES / 6)


def film(seed: int, geometry: str, noise: float) -> dict[str, list[HeadMaps]]:
    """split -> frames; subject, cameras and acting depend on the seed alone."""
    model = open_morphable()
    subject = Subject.sample(model, seed)
    rig = Rig.arc(16, size=SIZE)
    filming = Filming(subject, rig.cameras[0], SIZE)
    views, errors = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    looking = np.array(["eyeLook" in name for name in model.expression_names])
    found: dict[str, list[HeadMaps]] = {split: [] for split in SPLITS}
    for sequence in range(TRAINING_SEQUENCES + TEST_SEQUENCES):
        script = performance(model.expression_names, seed, sequence)
        for t in range(FRAMES):
            chosen = views.choice(np.arange(1, 16), CAMERAS_PER_INSTANT, replace=False)
            held_out = sequence >= TRAINING_SEQUENCES
            shots = [("motion", k) for k in chosen[:3]] if held_out else [("train", k) for k in chosen]
            if not held_out and t % 2 == 0:
                shots.append(("view", 0))
            told, pose = script.weights[t], script.head_to_world[t]
            shown = np.where(looking, 0, told).astype(np.float32) if geometry == "gaze" else told
            cameras = [rig.cameras[k] for _, k in shots]
            pictures = filming.pictures(shown, script.gaze[t], pose, cameras)
            mesh = filming.mesh(shown, pose, tracker_error(errors, noise) if geometry == "noisy" else ())
            for (split, k), camera, picture in zip(shots, cameras, pictures, strict=True):
                found[split].append(filming.maps(mesh, told, camera, picture, f"{sequence}/{t:02d}/{k:02d}"))
    return found


def frames_of(folder: Path, seed: int, geometry: str, noise: float) -> dict[str, list[HeadMaps]]:
    """`film`, kept in `folder`."""
    name = f"{geometry}-{noise:g}" if geometry == "noisy" else geometry
    path = folder / f"subject-{seed}-{name}.npz"
    if not path.is_file():
        found = film(seed, geometry, noise)
        arrays = {f"{split}/{k}": v for split in SPLITS for k, v in stack_frames(found[split]).items()}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return {
        split: unstack_frames({k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{split}/")})
        for split in SPLITS
    }


def stance(seed: int, frames: list[HeadMaps]) -> Stance:
    """How the head stands to the camera, and its expression, from the script that moved it."""
    names, cameras = open_morphable().expression_names, Rig.arc(16, size=SIZE).cameras
    scripts: dict[int, ExpressionScript] = {}
    rotations = []
    for maps in frames:
        sequence, t, k = map(int, maps.key.split("/"))
        if sequence not in scripts:
            scripts[sequence] = performance(names, seed, sequence)
        rotations.append(cameras[k].world_to_camera[:3, :3] @ scripts[sequence].head_to_world[t][:3, :3])
    return Stance(np.stack(rotations), np.stack([maps.expression for maps in frames]))
