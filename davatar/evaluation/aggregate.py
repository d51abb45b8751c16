"""From frames to clips to averages, and the result file with the published keys (spec diffusion-avatars 9.4, 9.5).

A clip is one sequence seen by one camera. Two ways to average a clip:
* "per_image" (ours): the metric of every frame, then the mean;
* "published": batches of 16 frames, the metric of every batch (PSNR of the batch's MSE), the mean over batches,
  so that a short last batch counts too much, as in the published numbers.
Three families: the whole picture; "masked" = both pictures on white outside the mask (published); "foreground" =
averaged over the mask grown by 2 pixels (ours: white background cannot flatter it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from davatar.core.errors import DataError
from davatar.core.files import read_json
from davatar.evaluation.flicker import Flicker
from davatar.evaluation.mask import grown
from davatar.evaluation.metric import Metric, MetricSet, measure
from davatar.evaluation.pixel import on_white
from davatar.evaluation.spectrum import BANDS, sharpness
from davatar.evaluation.whole_clips import WholeClip, whole_clip

SCHEMA_VERSION = 2  # 2: flicker, per_sequence_details
FAMILIES = ("", "masked", "foreground")
PUBLISHED_BATCH = 16
NOTHING_FOUND = -1.0  # a detector's metric without a detection; the published mean takes it for a number
PUBLISHED_IMAGE_KEYS = ("psnr", "ssim", "lpips", "multi_scale_ssim", "mse", "akd", "akd_face", "csim", "aed", "apd")
PUBLISHED_VIDEO_KEYS = ("jod",)
Aggregation = Literal["per_image", "published"]


@dataclass(frozen=True)
class FramePair:
    prediction: np.ndarray  # [H, W, 3] uint8 sRGB
    target: np.ndarray  # [H, W, 3] uint8 sRGB
    mask: np.ndarray | None = None  # [H, W] uint8 0..255 foreground


@dataclass
class ClipScore:
    metrics: dict[str, dict[str, float | None]]  # family -> metric -> value; None = see `reasons`
    video: dict[str, dict[str, float | None]]  # the same for metrics of whole clips
    per_frame: dict[str, list[float | None]] = field(default_factory=dict)  # metric -> frames; per_image only
    sharpness: dict[str, float] = field(default_factory=dict)  # band -> energy / true energy
    flicker: dict[str, float | None] = field(default_factory=dict)  # flicker and true_change, grey levels
    frames: int = 0
    dropped: int = 0  # frames without a picture (target all 0 or all 128), as published
    reasons: dict[str, str] = field(default_factory=dict)  # metric -> why it has no value


def _is_empty(target: np.ndarray) -> bool:
    return bool((target == 0).all() or (target == 128).all())


def _tensor(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255)


def _batches(frames: Iterable[FramePair], size: int) -> Iterator[list[FramePair]]:
    batch = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _families(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> dict[str, tuple]:
    """family -> (prediction, target, mask) as metrics take them; `mask` [N, H, W] 0..1."""
    families = {"": (prediction, target, None)}
    if mask is not None:
        families["masked"] = (on_white(prediction, mask), on_white(target, mask), None)
        families["foreground"] = (prediction, target, grown(mask))
    return families


def _tensors(batch: list[FramePair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    masks = [f.mask for f in batch if f.mask is not None]
    mask = torch.from_numpy(np.stack(masks)).float() / 255 if len(masks) == len(batch) else None
    return _tensor([f.prediction for f in batch]), _tensor([f.target for f in batch]), mask


def score_clip(frames: Iterable[FramePair], chosen: MetricSet, aggregation: Aggregation = "per_image") -> ClipScore:
    """Score one clip, holding one batch of frames at a time; for metrics of whole clips, frames wait on disk.

    Raises:
        DataError: the clip has no frame with a picture, or a prediction differs in size from its target.
    """
    image_metrics = {k: m for k, m in chosen.metrics.items() if getattr(m, "scope", "image") != "clip"}
    clip_metrics = {k: m for k, m in chosen.metrics.items() if k not in image_metrics}
    values: dict[tuple[str, str], list[tuple[float | None, int]]] = {}
    score = ClipScore(metrics={}, video={}, reasons=dict(chosen.unavailable))
    bands = dict.fromkeys(BANDS, 0.0)
    flicker = Flicker()

    def full_frames() -> Iterator[FramePair]:
        for frame in frames:
            if frame.prediction.shape != frame.target.shape:
                raise DataError(f"prediction is {frame.prediction.shape}, target {frame.target.shape}")
            if _is_empty(frame.target):
                score.dropped += 1
                flicker.interrupt()
                continue
            score.frames += 1
            flicker.add(frame.prediction, frame.target, frame.mask)
            yield frame

    with whole_clip() as whole:
        for batch in _batches(full_frames(), PUBLISHED_BATCH if aggregation == "published" else 1):
            for frame in batch:
                found = sharpness(frame.prediction / np.float32(255), frame.target / np.float32(255))
                bands = {name: bands[name] + found[name] for name in BANDS}
                if clip_metrics:
                    parts = (frame.prediction, frame.target, frame.mask)
                    whole.append(*(part for part in parts if part is not None))
            for family, pair in _families(*_tensors(batch)).items():
                for metric in image_metrics.values():
                    value, reason = measure(metric, *pair)
                    if aggregation == "per_image" and value == NOTHING_FOUND:
                        value, reason = None, "found nothing to compare"
                    values.setdefault((family, metric.name), []).append((value, len(batch)))
                    if reason:
                        score.reasons.setdefault(_reason_key(metric.name, family), reason)
        if not score.frames:
            raise DataError("no frame of this clip has a picture to compare with")
        _measure_whole(whole, clip_metrics, score)

    pooled = {m.name for m in image_metrics.values() if getattr(m, "pooled", False)}
    for (family, name), found in values.items():
        score.metrics.setdefault(family, {})[name] = _mean(found, by_frames=name in pooled)
        if family == "" and aggregation == "per_image":
            score.per_frame[name] = [value for value, _ in found]
    score.sharpness = {name: total / score.frames for name, total in bands.items()}
    score.flicker = flicker.values
    return score


def _measure_whole(whole: WholeClip, clip_metrics: dict[str, Metric], score: ClipScore) -> None:
    """Call the metrics of whole clips, family by family."""

    def of_family(family: str) -> Callable[..., tuple]:
        return lambda *arrays: _families(*_tensors([FramePair(*arrays)]))[family]

    for metric in clip_metrics.values():
        if score.frames < 2:
            score.reasons.setdefault(metric.name, "needs a clip of at least 2 frames, this one has 1")
            score.video.setdefault("", {})[metric.name] = None
            continue
        for family in FAMILIES if len(whole.shapes) == 3 else FAMILIES[:1]:
            with whole.mapped(of_family(family)) as pair:
                value, reason = measure(metric, *pair)
            score.video.setdefault(family, {})[metric.name] = value
            if reason:
                score.reasons.setdefault(_reason_key(metric.name, family), reason)


def _reason_key(name: str, family: str) -> str:
    return f"{name} ({family})" if family else name


def _mean(values: list[tuple[float | None, int]], by_frames: bool) -> float | None:
    known = [(v, n) for v, n in values if v is not None]
    if not known:
        return None
    return float(np.average([v for v, _ in known], weights=[n if by_frames else 1 for _, n in known]))


def average(values: Iterable[dict[str, float | None]]) -> dict[str, float | None]:
    """Plain mean per key over the clips that have a value; None where none has."""
    rows = list(values)
    names = dict.fromkeys(name for row in rows for name in row)
    known = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return {name: float(np.mean(found)) if found else None for name, found in known.items()}


ClipKey = tuple[str, str, str]  # participant, sequence, serial


def _with_published_keys(score: ClipScore, family: str) -> dict:
    image = dict.fromkeys(PUBLISHED_IMAGE_KEYS) | score.metrics.get(family, {})
    video = dict.fromkeys(PUBLISHED_VIDEO_KEYS) | score.video.get(family, {})
    return {"paired_image_metrics": image, "paired_video_metric": video}


def averages(scores: dict[ClipKey, ClipScore]) -> dict[str, dict]:
    """`average_per_sequence_metric` and its masked and foreground twins."""
    out = {}
    for family in FAMILIES:
        entries = [_with_published_keys(score, family) for score in scores.values()]
        out[_prefixed(family, "average_per_sequence_metric")] = {
            part: average(entry[part] for entry in entries) for part in ("paired_image_metrics", "paired_video_metric")
        }
    return out


def _beyond_errors(scores: dict[ClipKey, ClipScore]) -> dict[str, dict[str, float | None]]:
    """What no error of single pictures shows: blur, and unrest between frames."""
    return {
        "sharpness": average(score.sharpness for score in scores.values()),
        "flicker": average(score.flicker for score in scores.values()),
    }


def _prefixed(family: str, key: str) -> str:
    return f"{family}_{key}" if family else key


def result_document(
    scores: dict[ClipKey, ClipScore],
    baselines: dict[str, dict[ClipKey, ClipScore]],
    aggregation: Aggregation,
    about: dict,
) -> dict:
    """The evaluation as one JSON object: published keys, then ours.

    Args:
        scores: the avatar's clips.
        baselines: name -> the same clips predicted by a baseline.
        about: run, checkpoint, split, ...: stored as it is under "about".
    """
    document: dict = {"schema_version": SCHEMA_VERSION, "about": about, "aggregation": aggregation}
    for family in FAMILIES:
        nested: dict = {}
        for (participant, sequence, serial), score in scores.items():
            entry = _with_published_keys(score, family)
            nested.setdefault(participant, {}).setdefault(sequence, {})[serial] = entry
        document[_prefixed(family, "per_sequence_metrics")] = nested
    document |= averages(scores)
    document |= _beyond_errors(scores)
    for (participant, sequence, serial), score in scores.items():
        about_clip = {
            "frames": score.frames,
            "dropped_frames": score.dropped,
            "sharpness": score.sharpness,
            "flicker": score.flicker,
        }
        details = document.setdefault("per_sequence_details", {})
        details.setdefault(participant, {}).setdefault(sequence, {})[serial] = about_clip
    document["baselines"] = {name: averages(clips) | _beyond_errors(clips) for name, clips in baselines.items()}
    document["frames"] = sum(score.frames for score in scores.values())
    document["dropped_frames"] = sum(score.dropped for score in scores.values())
    document["unavailable"] = {name: why for score in scores.values() for name, why in score.reasons.items()}
    return document


def read_result(path: Path) -> dict:
    """A result file, ours or one that the published evaluation wrote (which has no schema version).

    Raises:
        DataError: it is missing, is no result of an evaluation, or was written by a newer davatar.
    """
    document = read_json(path)
    version = document.get("schema_version", 0) if isinstance(document, dict) else None
    if version is None or "average_per_sequence_metric" not in document:
        raise DataError("is no result of an evaluation: lacks average_per_sequence_metric", file=path)
    if version > SCHEMA_VERSION:
        raise DataError(
            f"has schema version {version}, this davatar reads up to {SCHEMA_VERSION}", file=path, mend="update davatar"
        )
    return document
