"""How good an avatar is: its pictures of frames it never saw, beside two baselines, in numbers and in a report.

Frames are rendered once and lie in the run (`evaluation.layout`); numbers are computed from these files, one clip
and one frame in memory at a time. A killed evaluation goes on at the next frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import read_json, write_json
from davatar.core.interrupt import interruptible
from davatar.core.progress import Progress, silent
from davatar.dataset.layout import SampleKey
from davatar.dataset.rendering_data import RenderingData, Sample
from davatar.evaluation.aggregate import Aggregation, ClipKey, ClipScore, FramePair, score_clip
from davatar.evaluation.baselines import Stance, mean_image, nearest
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.metric import MetricSet

Paint = Callable[[Sequence[Sample]], np.ndarray]  # samples -> [B, H, W, 3] uint8

BATCH = 8  # frames rendered at once


@dataclass(frozen=True)
class Nearest:
    """The training pictures as a baseline sees them."""

    keys: list[SampleKey]
    stance: Stance
    mean: np.ndarray  # [S, S, 3] float32 0..1, of the data set's size


def clip_of(key: SampleKey) -> ClipKey:
    return str(key.participant), key.sequence, key.serial


def by_clip(keys: Iterable[SampleKey]) -> dict[ClipKey, list[SampleKey]]:
    """Samples of each clip, in order of time."""
    clips: dict[ClipKey, list[SampleKey]] = {}
    for key in keys:
        clips.setdefault(clip_of(key), []).append(key)
    return {clip: sorted(found, key=lambda key: key.timestep) for clip, found in clips.items()}


def render_missing(
    keys: Sequence[SampleKey],
    data: RenderingData,
    paint: Paint,
    folder: EvaluationFolder,
    about: dict,
    progress: Progress = silent,
) -> None:
    """Paint and store every frame that is not there yet.

    Args:
        about: what decides the pictures (weights, data, sampler): frames of another state are painted again.

    Raises:
        DataError: a sample has no photograph to compare with. Interrupted: stopped; run again to go on.
    """
    state = folder.root / "state.json"
    if not state.is_file() or read_json(state) != about:
        for key in keys:
            folder.path(clip_of(key), key.timestep, "prediction").unlink(missing_ok=True)
        write_json(state, about)
    todo = [key for key in keys if not folder.has(clip_of(key), key.timestep)]
    with interruptible() as stop, progress.task("render held-out frames", len(keys)) as task:
        task.advance(len(keys) - len(todo))
        for start in range(0, len(todo), BATCH):
            samples = [data.load(key) for key in todo[start : start + BATCH]]
            for sample in samples:
                if sample.image is None:
                    raise DataError(f"{sample.key} has no photograph to compare with", file=data.path)
            for sample, picture in zip(samples, paint(samples), strict=True):
                size = len(picture)
                mask = None if sample.alpha is None else as_bytes(sample.alpha, size)
                folder.save(
                    clip_of(sample.key), sample.key.timestep, FramePair(picture, as_bytes(sample.image, size), mask)
                )
            task.advance(len(samples))
            stop.check()


def as_bytes(values: np.ndarray, size: int | None = None) -> np.ndarray:
    """Float 0..1 [S, S(, 3)] -> uint8 [size, size(, 3)]; blocks are averaged where S is a multiple of size.

    Raises:
        DataError: S is no multiple of `size`.
    """
    size = size or len(values)
    factor, rest = divmod(len(values), size)
    if rest:
        raise DataError(f"photographs are {len(values)} pixels wide, the avatar's pictures {size}: no whole multiple")
    if factor > 1:
        values = values.reshape(size, factor, size, factor, *values.shape[2:]).mean((1, 3))
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def stance_of(samples: Sequence[Sample]) -> Stance:
    """Rotation of the head as the camera sees it, and the expression: morphable weights, else the head model's code."""
    rotations, expressions = [], []
    for sample in samples:
        rotation = np.eye(3) if sample.camera is None else sample.camera.world_to_camera[:3, :3]
        if sample.head_to_world is not None:
            turn = sample.head_to_world[:3, :3]
            rotation = rotation @ (turn / np.cbrt(np.linalg.det(turn)))
        rotations.append(rotation)
        expressions.append(sample.weights if len(sample.weights) else sample.codes)
    return Stance(np.stack(rotations), np.stack(expressions))


def learn_baselines(data: RenderingData, keys: Sequence[SampleKey], progress: Progress = silent) -> Nearest:
    """One pass over the training pictures; keeps poses and the mean picture, no pictures."""
    stances = []

    def pictures() -> Iterator[np.ndarray]:
        with progress.task("read training pictures for the baselines", len(keys)) as task:
            for key in keys:
                sample = data.load(key)
                stances.append(stance_of([sample]))
                task.advance()
                if sample.image is not None:
                    yield sample.image

    mean = mean_image(pictures())
    whole = Stance(*(np.concatenate([getattr(s, part) for s in stances]) for part in ("head_to_camera", "expression")))
    return Nearest(list(keys), whole, mean)


def score(
    clips: dict[ClipKey, list[SampleKey]],
    data: RenderingData,
    folder: EvaluationFolder,
    baselines: Nearest,
    chosen: MetricSet,
    aggregation: Aggregation = "per_image",
    progress: Progress = silent,
) -> tuple[dict[ClipKey, ClipScore], dict[str, dict[ClipKey, ClipScore]]]:
    """Scores of the avatar, and of each baseline, per clip."""
    own: dict[ClipKey, ClipScore] = {}
    others: dict[str, dict[ClipKey, ClipScore]] = {"mean_image": {}, "nearest_frame": {}}
    with progress.task("measure", len(clips)) as task:
        for clip, keys in clips.items():
            own[clip] = score_clip((folder.load(clip, key.timestep) for key in keys), chosen, aggregation)
            for name, clip_scores in others.items():
                pairs = baseline_pairs(name, clip, keys, data, folder, baselines)
                clip_scores[clip] = score_clip(pairs, chosen, aggregation)
            task.advance()
    return own, others


def baseline_pairs(
    name: str, clip: ClipKey, keys: Sequence[SampleKey], data: RenderingData, folder: EvaluationFolder, known: Nearest
) -> Iterator[FramePair]:
    """The clip's frames with a baseline's picture in place of the avatar's."""
    for key in keys:
        pair = folder.load(clip, key.timestep)
        size = len(pair.target)
        picture = as_bytes(known.mean, size) if name == "mean_image" else nearest_picture(key, data, known, size)
        yield replace(pair, prediction=picture)


def nearest_picture(key: SampleKey, data: RenderingData, known: Nearest, size: int) -> np.ndarray:
    """[size, size, 3] uint8: the training picture nearest in pose and expression."""
    found = nearest(known.stance, stance_of([data.load(key)]))[0]
    return as_bytes(data.load(known.keys[found]).image, size)
