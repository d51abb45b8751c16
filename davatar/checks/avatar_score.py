"""How good an avatar is: its pictures of frames it never saw, beside two baselines, in numbers and in a report.

Frames are rendered once and lie in the run (`evaluation.layout`); numbers are computed from these files, one clip
and one frame in memory at a time. A killed evaluation goes on at the next frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import read_json, write_json
from davatar.core.interrupt import interruptible
from davatar.core.progress import Progress, silent
from davatar.dataset.layout import SampleKey
from davatar.evaluation.aggregate import Aggregation, ClipKey, ClipScore, FramePair, score_clip
from davatar.evaluation.baselines import Stance, mean_image, nearest
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.metric import MetricSet
from davatar.geometry.camera import Camera

BATCH = 8  # frames rendered at once
MOST_TRAINING = 3000  # training pictures that the baselines know, spread evenly


class TruePicture(Protocol):
    """What scores and baselines look at; a data set's `Sample` is one."""

    key: SampleKey
    image: np.ndarray | None  # [S, S, 3] float 0..1 on white
    alpha: np.ndarray | None  # [S, S] float 0..1, the foreground
    codes: np.ndarray
    weights: np.ndarray  # may be empty: then `codes` say what the face does
    head_to_world: np.ndarray | None
    camera: Camera | None


class Source(Protocol):
    """Samples by key. `RenderingData` is one."""

    path: Path

    def load(self, key: SampleKey) -> TruePicture: ...


Paint = Callable[[Sequence[Any]], np.ndarray]  # true pictures' samples -> [B, H, W, 3] uint8


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
    data: Source,
    paint: Paint,
    folder: EvaluationFolder,
    about: dict,
    progress: Progress = silent,
    at_once: int = BATCH,
) -> None:
    """Paint and store every frame that is not there yet.

    Args:
        at_once: frames painted together.
        about: what decides the pictures (weights, data, sampler): frames of another state are painted again.

    Raises:
        DataError: a sample has no photograph to compare with. Interrupted: stopped; run again to go on.
    """
    state = folder.root / "state.json"
    if not state.is_file() or read_json(state) != about:
        for key in keys:
            folder.path(clip_of(key), key.timestep, "prediction").unlink(missing_ok=True)
        write_json(state, about)
    # Fixed batches, painted whole: pictures do not depend on where an earlier attempt was stopped.
    batches = [keys[start : start + at_once] for start in range(0, len(keys), at_once)]
    todo = [batch for batch in batches if not all(folder.has(clip_of(key), key.timestep) for key in batch)]
    with interruptible() as stop, progress.task("render held-out frames", len(keys)) as task:
        task.advance(len(keys) - sum(map(len, todo)))
        for batch in todo:
            samples = [data.load(key) for key in batch]
            for sample in samples:
                if sample.image is None:
                    raise no_photograph([sample.key], data.path)
            for sample, picture in zip(samples, paint(samples), strict=True):
                size = len(picture)
                mask = None if sample.alpha is None else as_bytes(sample.alpha, size)
                folder.save(
                    clip_of(sample.key), sample.key.timestep, FramePair(picture, as_bytes(sample.image, size), mask)
                )
            task.advance(len(samples))
            stop.check()


def no_photograph(keys: Sequence[SampleKey], path: Path, mend: str | None = None) -> DataError:
    more = f" (nor have {len(keys) - 1} more)" if len(keys) > 1 else ""
    first = keys[0]
    return DataError(
        f"{first.sequence}, camera {first.serial}, time step {first.timestep} has no photograph to compare with{more}",
        file=path,
        mend=mend,
    )


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


def stance_of(samples: Sequence[TruePicture]) -> Stance:
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


def learn_baselines(data: Source, keys: Sequence[SampleKey], progress: Progress = silent) -> Nearest:
    """One pass over the training pictures (some of very many); keeps poses and the mean picture, no pictures."""
    if len(keys) > MOST_TRAINING:
        keys = [keys[k] for k in np.linspace(0, len(keys) - 1, MOST_TRAINING).astype(int)]
    stances, seen = [], []

    def pictures() -> Iterator[np.ndarray]:
        with progress.task("read training pictures for the baselines", len(keys)) as task:
            for key in keys:
                sample = data.load(key)
                task.advance()
                if sample.image is not None:
                    stances.append(stance_of([sample]))
                    seen.append(key)
                    yield sample.image

    mean = mean_image(pictures())
    whole = Stance(*(np.concatenate([getattr(s, part) for s in stances]) for part in ("head_to_camera", "expression")))
    return Nearest(seen, whole, mean)


def score(
    clips: dict[ClipKey, list[SampleKey]],
    data: Source,
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
    name: str, clip: ClipKey, keys: Sequence[SampleKey], data: Source, folder: EvaluationFolder, known: Nearest
) -> Iterator[FramePair]:
    """The clip's frames with a baseline's picture in place of the avatar's."""
    for key in keys:
        pair = folder.load(clip, key.timestep)
        size = len(pair.target)
        picture = as_bytes(known.mean, size) if name == "mean_image" else nearest_picture(key, data, known, size)
        yield replace(pair, prediction=picture)


def nearest_picture(key: SampleKey, data: Source, known: Nearest, size: int) -> np.ndarray:
    """[size, size, 3] uint8: the training picture nearest in pose and expression."""
    found = nearest(known.stance, stance_of([data.load(key)]))[0]
    return as_bytes(data.load(known.keys[found]).image, size)
