"""`davatar eval RUN` as one call: paint held-out frames, measure, write the result file and the report into the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from davatar.avatar.frames import reference_rotation, sample_maps
from davatar.avatar.model import open_avatar
from davatar.avatar.previews import paint
from davatar.checks.avatar_report import chosen_frames, evaluation_section, film, frame_sheet
from davatar.checks.avatar_score import by_clip, learn_baselines, render_missing, score
from davatar.core import paths, runs
from davatar.core.content import hash_path
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.core.files import write_json, write_text
from davatar.core.manifest import dependency_versions
from davatar.core.progress import Progress, silent
from davatar.dataset.layout import SampleKey
from davatar.dataset.rendering_data import RenderingData, Sample
from davatar.evaluation.aggregate import Aggregation, result_document
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.metric import open_metrics
from davatar.evaluation.report import Fact, Picture, Report, Section, metric_text, render_report

DEFAULT_METRICS = ("psnr", "ssim", "ms-ssim", "mse")
PREFERRED_SPLITS = ("hold-out-sequence", "hold-out-expression", "hold-out-view")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured and how."""

    split: str | None = None  # None: held-out sequences, else held-out moments, else held-out cameras
    metrics: tuple[str, ...] = DEFAULT_METRICS  # names in the plugin group davatar.metrics
    compat: bool = False  # the published way: held-out cameras only, mean over batches of 16
    serials: tuple[str, ...] = ()  # cameras to look at; empty: all of the split (with compat: the held-out ones)
    every: int = 1  # take every n-th frame
    steps: int = 1  # denoising steps; 1 = smallest error

    def __post_init__(self):
        if self.every < 1 or self.steps < 1:
            raise UsageError(f"every ({self.every}) and steps ({self.steps}) must be at least 1")


@dataclass(frozen=True)
class Evaluation:
    document: dict  # the result file's content
    result: Path  # eval-result_....json
    report: Path  # the page
    section: Section = field(repr=False, default=None)  # the page's chapter, for longer reports
    film: Picture = field(repr=False, default=None)  # truth, avatar, error in motion

    def value(self, metric: str = "psnr", baseline: str | None = None) -> float | None:
        """An average of the result: of the avatar, or of `mean_image` or `nearest_frame`."""
        part = self.document if baseline is None else self.document["baselines"][baseline]
        return part["average_per_sequence_metric"]["paired_image_metrics"].get(metric)


def evaluate_avatar(
    run: runs.Run | str | Path,
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    data: RenderingData | str | Path | None = None,
    checkpoint: int | None = None,
    out: str | Path | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a run.

    Args:
        run: a run, its name or its folder.
        data: a data set; default: the one the run was trained on.
        checkpoint: step; default: the latest.
        out: where results go; default: `evaluations/` in the run.
        command: shown in the report.

    Raises:
        MissingError: there is no such run, checkpoint or data set.
        UsageError: unknown metric. DataError: the split is empty, or has no photographs.
        Interrupted: stopped by a signal; run again to go on.
    """
    run = run if isinstance(run, runs.Run) else runs.resolve_run(run)
    chosen = open_metrics(settings.metrics)
    data = data if isinstance(data, RenderingData) else RenderingData(data or trained_on(run))
    split, keys = choose(data, settings)
    avatar, _, step = open_avatar(run, checkpoint)
    home = paths.renders_dir() / run.name if run.published else run.folder  # archives are never written into
    root = Path(out) if out else home / "evaluations"
    name = evaluation_name(step, settings)
    folder = EvaluationFolder(root / name / split)
    state = {
        "checkpoint": hash_path(run.checkpoints()[step], "*.safetensors"),
        "data": hash_path(data.path, "*.json"),
        "steps": settings.steps,
    }

    def painter(samples: Sequence[Sample]) -> np.ndarray:
        frames = [sample_maps(s, reference_rotation(data, s.key), avatar.resolution, avatar.told) for s in samples]
        return as_bytes_batch(paint(avatar, frames, settings.steps))

    render_missing(keys, data, painter, folder, state, progress)
    known = learn_baselines(data, data.samples("train"), progress)
    clips = by_clip(keys)
    aggregation: Aggregation = "published" if settings.compat else "per_image"
    own, others = score(clips, data, folder, known, chosen, aggregation, progress)
    about = {
        "run": run.name, "checkpoint": step, "split": split, "data": str(data.path), "steps": settings.steps,
        "training_frames": len(known.keys),
    }  # fmt: skip
    document = result_document(own, others, aggregation, about)
    result = root / f"eval-result_{name}_{split}.json"
    write_json(result, document)
    shown = frame_sheet(chosen_frames(own, clips), data, folder, known)
    section = evaluation_section(document, own, others, shown, command=command)
    moving = film(clips, folder, fps=10)
    report = folder.root / "report.html"
    write_text(report, render_report(page(document, section, moving)))
    return Evaluation(document, result, report, section, moving)


def as_bytes_batch(pictures: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] float 0..1 -> uint8."""
    return np.round(np.clip(pictures, 0, 1) * 255).astype(np.uint8)


def trained_on(run: runs.Run) -> Path:
    """The data set a run was trained on.

    Raises:
        MissingError: the run does not say, or the folder is gone.
    """
    path = run.manifest.get("dataset")
    if path is None or not Path(path).is_dir():
        gone = "does not say what it was trained on" if path is None else f"was trained on {path}, which is gone"
        raise MissingError(gone, file=run.folder, mend="name the data set with --data")
    return Path(path)


def choose(data: RenderingData, settings: EvaluationSettings) -> tuple[str, list[SampleKey]]:
    """The split and its samples after the choice of cameras and frames.

    Raises:
        DataError: the data set holds nothing out, lacks the split, or nothing is left.
    """
    splits = data.splits()
    split = settings.split or next((name for name in PREFERRED_SPLITS if splits.get(name)), None)
    if split is None:
        raise DataError("holds nothing out to evaluate on", file=data.path, mend="rasterize with --hold-out-sequences")
    keys = data.samples(split)
    serials = settings.serials
    if settings.compat and not serials:
        serials = tuple({key.serial for key in splits.get("hold-out-view", ())})
    absent = sorted(set(serials) - {key.serial for key in keys})
    if absent:
        raise DataError(f"split {split} has no camera {absent[0]}", file=data.path)
    chosen = [key for key in keys if not serials or key.serial in serials]
    moments = {moment: k for k, moment in enumerate(dict.fromkeys((key.sequence, key.timestep) for key in chosen))}
    chosen = [key for key in chosen if moments[key.sequence, key.timestep] % settings.every == 0]
    if not chosen:
        raise DataError(f"split {split} has no samples", file=data.path)
    return split, chosen


def evaluation_name(step: int, settings: EvaluationSettings) -> str:
    """ckpt-300_denoising-steps-5_compat: what tells evaluations of one run apart."""
    parts = [f"ckpt-{step}"]
    if settings.steps != 1:
        parts.append(f"denoising-steps-{settings.steps}")
    if settings.compat:
        parts.append("compat")
    if settings.serials:
        parts.append("serials-" + "-".join(settings.serials))
    if settings.every != 1:
        parts.append(f"every-{settings.every}")
    return "_".join(parts)


def page(document: dict, section: Section, moving: Picture) -> Report:
    about = document["about"]
    average = document["average_per_sequence_metric"]["paired_image_metrics"]
    facts = []
    for name, label in (("psnr", "PSNR"), ("ssim", "SSIM")):
        if average.get(name) is not None:
            remarks = [
                f"{title} {metric_text(name, part['average_per_sequence_metric']['paired_image_metrics'][name])}"
                for title, part in (
                    ("mean image", document["baselines"]["mean_image"]),
                    ("nearest frame", document["baselines"]["nearest_frame"]),
                )
            ]
            facts.append(Fact(label, metric_text(name, average[name]), ", ".join(remarks)))
    facts.append(Fact("Held out", f"{document['frames']} frames", about["split"].replace("-", " ")))
    facts.append(Fact("Trained on", f"{about['training_frames']} frames", f"{about['checkpoint']} steps"))
    return Report(
        title=f"Evaluation of {about['run']}",
        lead=f"Split {about['split']} of {about['data']}.",
        facts=tuple(facts),
        hero=moving,
        sections=(section,),
        environment=dependency_versions(),
    )
