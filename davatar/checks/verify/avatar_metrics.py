"""Section F of the published avatar: metrics as its evaluation defines them, and how it averages them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from davatar.checks.verify.avatar_fixtures import holding, near
from davatar.checks.verify.comparison import Check, Comparison
from davatar.checks.verify.fixture import read_arrays, read_json
from davatar.core.errors import DavatarError
from davatar.evaluation.aggregate import FramePair, average, score_clip
from davatar.evaluation.faces import FACE, embedding_similarity, landmark_distance
from davatar.evaluation.metric import MetricSet, open_metrics
from davatar.evaluation.pictures import error_map
from davatar.evaluation.pixel import Mse, MsSsim, Psnr, Ssim, on_white

METRIC = 2e-5  # share; float32 sums over 1e5 values in another order
NAMES = {"psnr": "psnr", "ssim": "ssim", "ms_ssim": "multi_scale_ssim", "mse": "mse"}  # fixture -> ours


def pixel_metrics() -> MetricSet:
    return MetricSet({metric.name: metric for metric in (Psnr(), Ssim(), MsSsim(), Mse())}, {})


def clips_in(wanted: dict[str, np.ndarray]) -> list[str]:
    """Names of the clips that a fixture holds pictures of."""
    return sorted(name.removesuffix("_predictions") for name in wanted if name.endswith("_predictions"))


def frames_of(wanted: dict[str, np.ndarray], clip: str, mask: np.ndarray | None = None) -> list[FramePair]:
    pairs = zip(wanted[f"{clip}_predictions"], wanted[f"{clip}_targets"], strict=True)
    return [FramePair(prediction, target, mask) for prediction, target in pairs]


def check_metrics(path: Path) -> Iterator[Comparison]:
    wanted = read_arrays(path)
    for clip in clips_in(wanted):
        yield from _check_clip(path, wanted, clip)
    yield from _check_dropped(path, wanted)
    yield from _check_faces(path, wanted)
    yield from _check_video(path, wanted)


def _check_clip(path: Path, wanted: dict[str, np.ndarray], clip: str) -> Iterator[Comparison]:
    """Values of a clip in batches of 16, whole and, where there are such, masked; pictures made of its first frame."""
    masked = f"{clip}_masked_psnr" in wanted
    frames = frames_of(wanted, clip, wanted["mask"] if masked else None)
    found = score_clip(frames, pixel_metrics(), "published")
    for short, name in NAMES.items():
        for family, infix in (("", ""), ("masked", "masked_")):
            for suffix in ("", "_mean_of_batches"):
                expected = f"{clip}_{infix}{short}{suffix}"
                if expected in wanted:
                    value = found.metrics[family][name]
                    yield near(path, expected, value, wanted[expected], METRIC, relative=True)
    if f"{clip}_psnr_batch0" in wanted:
        for k in range(0, len(frames), 16):
            batch = score_clip(frames[k : k + 16], pixel_metrics(), "published").metrics[""]["psnr"]
            expected = f"{clip}_psnr_batch{k // 16}"
            yield near(path, expected, batch, wanted[expected], METRIC, relative=True)
    if f"{clip}_psnr_global" in wanted:
        whole = -10 * np.log10(np.mean([np.square(f.prediction / 255 - f.target / 255) for f in frames]))
        yield near(path, f"{clip}_psnr_global", whole, wanted[f"{clip}_psnr_global"], METRIC, relative=True)
    first = frames[0]
    if f"{clip}_error_map0" in wanted:
        map_of = error_map(first.prediction, first.target)
        yield near(path, f"{clip}: error map, grey levels", map_of, wanted[f"{clip}_error_map0"], 1)
    if f"{clip}_masked_pred0" in wanted:
        picture = torch.from_numpy(first.prediction)[None].permute(0, 3, 1, 2) / 255
        shown = on_white(picture, torch.from_numpy(first.mask)[None] / 255)[0].permute(1, 2, 0) * 255
        yield near(path, f"{clip}: picture on white, grey levels", shown, wanted[f"{clip}_masked_pred0"], 1)


def _check_dropped(path: Path, wanted: dict[str, np.ndarray]) -> Iterator[Comparison]:
    """The first clip again with two targets that are one colour: the published evaluation leaves such frames out."""
    if "excl_psnr" not in wanted:
        return
    frames = frames_of(wanted, clips_in(wanted)[0])
    for k, value in ((0, 0), (2, 128)):
        frames[k] = FramePair(frames[k].prediction, np.full_like(frames[k].target, value))
    found = score_clip(frames, pixel_metrics(), "published").metrics[""]["psnr"]
    yield near(path, "excl_psnr", found, wanted["excl_psnr"], METRIC, relative=True)


def _check_faces(path: Path, wanted: dict[str, np.ndarray]) -> Iterator[Comparison]:
    if "akd_landmarks_pred" in wanted:
        given = wanted["akd_landmarks_pred"], wanted["akd_landmarks_target"], wanted["akd_detected"]
        yield near(path, "akd", landmark_distance(*given), wanted["akd"], METRIC, relative=True)
        yield near(path, "akd_face", landmark_distance(*given, FACE), wanted["akd_face"], METRIC, relative=True)
    if "csim_pred" in wanted:
        found = embedding_similarity(wanted["csim_pred"], wanted["csim_target"])
        yield near(path, "csim", found, wanted["csim"], METRIC, relative=True)


def _check_video(path: Path, wanted: dict[str, np.ndarray]) -> Iterator[Comparison]:
    """JOD, where its plugin is installed."""
    if "jod" not in wanted:
        return
    try:
        metrics = open_metrics(["jod"])
    except DavatarError:
        return
    found = score_clip(frames_of(wanted, "jod"), metrics)
    if found.video.get("", {}).get("jod") is not None:
        yield near(path, "jod", found.video[""]["jod"], wanted["jod"], 1e-3)


def check_result(path: Path) -> Iterator[Comparison]:
    """A result file: its averages are those of its clips, and its clips those of the metric fixture beside it."""
    wanted = read_json(path)
    for prefix in ("", "masked_"):
        if f"{prefix}average_per_sequence_metric" not in wanted:
            continue
        clips = [
            metrics
            for sequences in wanted[f"{prefix}per_sequence_metrics"].values()
            for serials in sequences.values()
            for metrics in serials.values()
        ]
        for part, expected in wanted[f"{prefix}average_per_sequence_metric"].items():
            found = average(clip[part] for clip in clips)
            for name, value in expected.items():
                if value is None or found[name] is None:
                    yield Comparison(path.name, f"{prefix}average {name}", float(value is not found[name]), 0)
                else:
                    yield near(path, f"{prefix}average {name}", found[name], value, 1e-6, relative=True)
        yield from _check_clips_of_result(path, prefix, [clip["paired_image_metrics"] for clip in clips])


def _check_clips_of_result(path: Path, prefix: str, stored: list[dict]) -> Iterator[Comparison]:
    """Whether the stored values of each clip are what we measure in the pictures of a metric fixture beside it."""
    beside = [file for file in sorted(path.parent.iterdir()) if _is_metrics(file)]
    if not beside:
        return
    pictures = read_arrays(beside[0])
    mask = pictures.get("mask") if prefix else None
    for clip in clips_in(pictures):
        if f"{clip}_ms_ssim" not in pictures or (prefix and f"{clip}_masked_psnr" not in pictures):
            continue
        found = score_clip(frames_of(pictures, clip, mask), pixel_metrics(), "published")
        values = found.metrics["masked" if prefix else ""]
        nearest = min(stored, key=lambda one: abs(one["psnr"] - values["psnr"]))
        for name in NAMES.values():
            yield near(path, f"{prefix}{name} of clip {clip}", values[name], nearest[name], METRIC, relative=True)


_is_metrics = holding("F", "akd_landmarks_pred", "csim_pred")

CHECKS: tuple[Check, ...] = (
    Check("diffusion-avatars F", holding("F", "akd_landmarks_pred", "csim_pred"), check_metrics),
    Check("diffusion-avatars F", holding("F", "per_sequence_metrics", "average_per_sequence_metric"), check_result),
)
