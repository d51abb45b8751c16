"""The people that the shipped base learns from: random identities, expressions, views and tracker errors.

Identity k is a function of (seed, k) alone; each is one file, written atomically, so that a stopped
generation goes on where it was and several processes may share the work.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.synthetic_frames import Filming, stack_frames, tracker_error, unstack_frames
from davatar.capture.synthetic.rig import look_at
from davatar.capture.synthetic.subject import Subject
from davatar.core.errors import DataError
from davatar.core.files import atomic_path
from davatar.core.progress import Progress, silent
from davatar.headmodel.morphable import MorphableModel, open_morphable

VIEWS = 2  # cameras per instant
DETAIL = 0.12  # cm between paint samples: finer than a pixel
FIRST_SUBJECT = 100_000  # seeds of subjects; apart from the small numbers that measurements use


@dataclass(frozen=True)
class CorpusSettings:
    identities: int = 80
    frames: int = 20  # per identity
    size: int = 128  # pixels
    seed: int = 0
    noisy: float = 0.3  # share of identities whose geometry is displaced like a tracker's


def random_expression(model: MorphableModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights [53] and gaze [2] rad: about half of the shape groups at random strength, now and then one-sided."""
    weights = np.zeros(len(model.expression_names), np.float32)
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(model.expression_names):
        groups.setdefault(name.removesuffix("_L").removesuffix("_R"), []).append(index)
    for members in groups.values():
        if rng.uniform() < 0.4:
            sides = rng.uniform(0.0, 1.0, len(members)) if rng.uniform() < 0.25 else np.ones(len(members))
            weights[members] = rng.beta(1.2, 2.0) * sides
    index = model.expression_index
    if rng.uniform() < 0.5:
        weights[index["jawOpen"]] = rng.uniform(0, 0.9)
    for side in "LR":
        weights[index[f"eyeBlink_{side}"]] *= rng.uniform() < 0.5
    gaze = np.clip(rng.normal(0, [0.28, 0.16]), [-0.5, -0.35], [0.5, 0.3])
    set_gaze(weights, gaze, model)
    return weights, gaze


def set_gaze(weights: np.ndarray, gaze: np.ndarray, model: MorphableModel) -> None:
    """Write the look shapes that go with a gaze [2] rad (yaw to the subject's left, pitch up) into weights [53]."""
    index = model.expression_index
    yaw, pitch = gaze / [0.6, 0.5]
    for side, outward in (("L", yaw), ("R", -yaw)):
        weights[index[f"eyeLookOut_{side}"]] = np.clip(outward, 0, 1)
        weights[index[f"eyeLookIn_{side}"]] = np.clip(-outward, 0, 1)
        weights[index[f"eyeLookUp_{side}"]] = np.clip(pitch, 0, 1)
        weights[index[f"eyeLookDown_{side}"]] = np.clip(-pitch, 0, 1)


def identity_frames(settings: CorpusSettings, identity: int) -> list[HeadMaps]:
    """All frames of one random person."""
    model = open_morphable()
    rng = np.random.default_rng([settings.seed, identity])
    subject = Subject.sample(model, FIRST_SUBJECT + identity, detail=DETAIL)
    reference = look_at(1.0, 0.0, 4.0, settings.size, settings.size, 500.0)
    filming = Filming(subject, reference, settings.size)
    noise = rng.uniform(0.3, 1.0) if rng.uniform() < settings.noisy else 0.0
    frames: list[HeadMaps] = []
    while len(frames) < settings.frames:
        weights, gaze = random_expression(model, rng)
        pose = np.eye(4)
        turn = np.clip(rng.normal(0, [7, 10, 5]), -25, 25)
        pose[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
        pose[:3, 3] = rng.normal(0, 0.008, 3)
        cameras = []
        for _ in range(min(VIEWS, settings.frames - len(frames))):
            distance, extent = rng.uniform(0.5, 1.2), rng.uniform(0.25, 0.34)
            azimuth, elevation = rng.uniform(-75, 75), rng.uniform(-24, 30)
            cameras.append(
                look_at(distance, azimuth, elevation, settings.size, settings.size, settings.size * distance / extent)
            )
        mesh = filming.mesh(weights, pose, tracker_error(rng, noise) if noise else ())
        for camera, picture in zip(cameras, filming.pictures(weights, gaze, pose, cameras), strict=True):
            frames.append(filming.maps(mesh, weights, camera, picture, key=f"{identity:03d}/{len(frames):02d}"))
    return frames


def corpus_file(folder: Path, identity: int) -> Path:
    return folder / f"identity-{identity:04d}.npz"


def load_identity(folder: Path, settings: CorpusSettings, identity: int) -> list[HeadMaps]:
    """Read one person's frames, or film them first if there is no file yet.

    Raises:
        DataError: the file is truncated or holds another number of frames.
    """
    path = corpus_file(folder, identity)
    if not path.is_file():
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **stack_frames(identity_frames(settings, identity)))
    try:
        with np.load(path) as archive:
            frames = unstack_frames({name: archive[name] for name in archive.files})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not a readable corpus file: {error}", file=path, mend="delete it") from error
    if len(frames) != settings.frames or frames[0].size != (settings.size, settings.size):
        raise DataError("was made with other settings", file=path, mend="use another folder")
    return frames


def film_corpus(folder: Path, settings: CorpusSettings, progress: Progress = silent) -> None:
    """Film every identity that has no file yet, in order."""
    with progress.task("filming identities", settings.identities) as task:
        for identity in range(settings.identities):
            if not corpus_file(folder, identity).is_file():
                load_identity(folder, settings, identity)
            task.advance()
