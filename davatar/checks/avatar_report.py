"""What a report shows of an evaluation: the table beside the baselines, frames with error maps, curves, a film.

Reads the evaluation's own files; `davatar eval` makes a page of it, the demo a chapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from davatar.checks.avatar_score import Nearest, Source, nearest_picture
from davatar.dataset.layout import SampleKey
from davatar.evaluation.aggregate import ClipKey, ClipScore
from davatar.evaluation.charts import line_chart
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.pictures import error_map, stack, strip
from davatar.evaluation.report import Chart, Picture, Section, Table, metric_text

SHOWN_FRAMES = 5
FILM_FRAMES = 120  # per report
BASELINE_NAMES = {"mean_image": "mean training image", "nearest_frame": "nearest training frame"}
METRIC_HEADS = {
    "psnr": "PSNR", "ssim": "SSIM", "multi_scale_ssim": "MS-SSIM", "mse": "MSE", "lpips": "LPIPS", "jod": "JOD",
    "akd": "AKD", "akd_face": "AKD face", "csim": "CSIM", "flip": "FLIP",
}  # fmt: skip


def metric_table(document: dict) -> Table:
    """Avatar and baselines: whole picture, then head only, then what errors of single pictures do not show."""
    average = document["average_per_sequence_metric"]
    known = average["paired_image_metrics"] | average["paired_video_metric"]
    names = [name for name, value in known.items() if value is not None or name in document["unavailable"]]
    names += [name for name in document["unavailable"] if name not in known and "(" not in name]
    heads = [METRIC_HEADS.get(name, name) for name in names]
    on_head = [name for name in ("psnr", "ssim") if known.get(name) is not None]
    rows = [("avatar", document)] + [(BASELINE_NAMES[k], v) for k, v in document["baselines"].items()]
    if "archive" in document:
        rows.insert(1, ("the archive's own result", document["archive"]))
    missing = [METRIC_HEADS.get(name, name) for name in names if known.get(name) is None]
    return Table(
        head=(
            "",
            *heads,
            *(f"head only: {METRIC_HEADS[name]}" for name in on_head),
            "sharpness mid",
            "high",
            "flicker",
        ),
        rows=tuple(
            (
                label,
                *("not available" if known.get(name) is None else _shown(part, "", name) for name in names),
                *(_shown(part, "foreground_", name) for name in on_head),
                *(_number(part.get("sharpness", {}).get(band), 2) for band in ("sharpness_mid", "sharpness_high")),
                _number(part.get("flicker", {}).get("flicker"), 1),
            )
            for label, part in rows
        ),
        caption=f"{document['frames']} frames that training never saw. Mean over "
        + ("frames of a clip" if document["aggregation"] == "per_image" else "batches of 16, as published")
        + ", then over clips (one sequence seen by one camera). Head only: the head's pixels, grown by two. "
        "Sharpness: spectral energy relative to the truth; 1 = as sharp, less = blurred. "
        + _flicker_caption(document)
        + (f" {', '.join(missing)}: not available, see below." if missing else ""),
        strong_row=0,
    )


def _flicker_caption(document: dict) -> str:
    change = document["flicker"].get("true_change")
    if change is None:
        return "Flicker needs clips of two frames."
    every = document["about"].get("every", 1)
    step = "frame to frame" if every == 1 else f"every {every} frames"
    return f"Flicker: change of the error from {step} over the head, grey levels; the truth changes by {change:.1f}."


def _shown(part: dict, family: str, name: str) -> str:
    average = part.get(f"{family}average_per_sequence_metric", {})
    values = average.get("paired_image_metrics", {}) | average.get("paired_video_metric", {})
    return metric_text(name, values.get(name))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def availability(document: dict) -> list[str]:
    """One line for every metric that has no value, or not everywhere, and why."""
    average = document["average_per_sequence_metric"]
    known = average["paired_image_metrics"] | average["paired_video_metric"]
    return [
        f"{name}: {'not available' if known.get(name) is None else 'not everywhere'}: {reason}"
        for name, reason in document["unavailable"].items()
    ]


def chosen_frames(scores: dict[ClipKey, ClipScore], clips: dict[ClipKey, list[SampleKey]]) -> list[SampleKey]:
    """Frames spread over all clips, the worst one by PSNR among them (the last of the list)."""
    keys = [key for found in clips.values() for key in found]
    spread = [keys[k] for k in np.linspace(0, len(keys) - 1, min(SHOWN_FRAMES - 1, len(keys))).round().astype(int)]
    rated = [
        (value, key)
        for clip, found in clips.items()
        for value, key in zip(scores[clip].per_frame.get("psnr", []), found, strict=False)
        if value is not None
    ]
    if not rated:
        return spread
    worst = min(rated, key=lambda pair: pair[0])[1]
    return [key for key in spread if key != worst] + [worst]


def frame_sheet(keys: Sequence[SampleKey], data: Source, folder: EvaluationFolder, known: Nearest) -> Picture:
    """Columns: truth, avatar, error, nearest training frame, its error; one row per frame."""
    rows = []
    for key in keys:
        pair = folder.load((str(key.participant), key.sequence, key.serial), key.timestep)
        near = nearest_picture(key, data, known, len(pair.target))
        rows.append(
            strip(
                [
                    pair.target,
                    pair.prediction,
                    error_map(pair.prediction, pair.target),
                    near,
                    error_map(near, pair.target),
                ]
            )
        )
    return Picture.image(
        stack(rows),
        "Held-out frames spread over the clips; the last row is the avatar's worst frame by PSNR. Error: sum of the "
        "three channels' differences, dark blue = none, red = 1 or more.",
        labels=("truth", "avatar", "error", "nearest training frame", "error"),
    )


def film(clips: dict[ClipKey, list[SampleKey]], folder: EvaluationFolder, fps: float, enlarge: int = 2) -> Picture:
    """Truth, avatar and error side by side, clip after clip."""

    def frames() -> Iterator[np.ndarray]:
        keys = [(clip, key.timestep) for clip, found in clips.items() for key in found][:FILM_FRAMES]
        for clip, timestep in keys:
            pair = folder.load(clip, timestep)
            row = strip([pair.target, pair.prediction, error_map(pair.prediction, pair.target)])
            yield row.repeat(enlarge, 0).repeat(enlarge, 1)

    return Picture.video(frames(), fps, "Held-out frames in motion.", labels=("truth", "avatar", "error"))


def psnr_chart(own: dict[ClipKey, ClipScore], others: dict[str, dict[ClipKey, ClipScore]]) -> tuple[Chart, ...]:
    """PSNR of every frame, clip after clip; none with the published aggregation, which has no frames."""
    series = {"avatar": own} | {BASELINE_NAMES[name]: clips for name, clips in others.items()}
    values = {
        label: [v for score in clips.values() for v in score.per_frame.get("psnr", [])]
        for label, clips in series.items()
    }
    svg = line_chart(
        {label: list(enumerate(found)) for label, found in values.items()},
        title="PSNR of every held-out frame",
        x_label="frame, clip after clip",
        y_label="PSNR, dB",
    )
    return (Chart(svg, "PSNR of every frame (whole picture)."),) if svg else ()


def evaluation_section(
    document: dict,
    own: dict[ClipKey, ClipScore],
    others: dict[str, dict[ClipKey, ClipScore]],
    sheet: Picture,
    *,
    title: str = "Evaluate",
    command: str = "",
    cost: str = "",
) -> Section:
    notes = availability(document)
    if document["dropped_frames"]:
        notes.append(f"{document['dropped_frames']} frames without a photograph were left out.")
    return Section(
        title=title,
        text="The avatar paints frames that it never saw, from the tracked head alone. Two baselines show what the "
        "numbers are worth: the mean of all training pictures, and the training picture nearest in head pose and "
        "expression.",
        command=command,
        tables=(metric_table(document), *clip_table(own)),
        pictures=(sheet,),
        charts=psnr_chart(own, others),
        notes=tuple(notes),
        cost=cost,
    )


def clip_table(own: dict[ClipKey, ClipScore]) -> tuple[Table, ...]:
    """One row per clip, where there are several."""
    if len(own) < 2:
        return ()
    names = [name for name in ("psnr", "ssim") if any(s.metrics[""].get(name) is not None for s in own.values())]
    rows = tuple(
        (
            clip[1],
            clip[2],
            str(score.frames),
            *(metric_text(name, score.metrics[""].get(name)) for name in names),
            _number(score.flicker.get("flicker"), 1),
            _number(score.flicker.get("true_change"), 1),
        )
        for clip, score in own.items()
    )
    heads = ("sequence", "camera", "frames", *(METRIC_HEADS[n] for n in names), "flicker", "true change")
    return (Table(heads, rows, "The avatar, clip by clip."),)
