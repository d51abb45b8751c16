"""`davatar eval RUN` as one call: paint held-out frames, measure, write the result file and the report into the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from davatar.avatar.computing import Computing
from davatar.avatar.precision import Precision
from davatar.checks.avatar_report import chosen_frames, evaluation_section, film, frame_sheet
from davatar.checks.avatar_score import by_clip, learn_baselines, no_photograph, render_missing, score
from davatar.checks.evaluation_subjects import (
    PUBLISHED_SPLITS,
    SHIPPED_STEPS,
    Subject,
    archive_subject,
    own_subject,
)
from davatar.core import paths, runs
from davatar.core.devices import check_device
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.core.files import check_output_folder, write_json, write_text
from davatar.core.manifest import dependency_versions
from davatar.core.progress import Progress, silent
from davatar.dataset.layout import SampleKey
from davatar.dataset.rendering_data import RenderingData
from davatar.evaluation.aggregate import Aggregation, read_result, result_document
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.metric import open_metrics
from davatar.evaluation.report import Fact, Picture, Report, Section, metric_text, render_report

DEFAULT_METRICS = ("psnr", "ssim", "ms-ssim", "mse")
TRAINING_VIEW = "222200047"  # the published evaluation of training frames looks through this camera
PREFERRED_SPLITS = ("hold-out-sequence", "hold-out-expression", "hold-out-view")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured and how."""

    split: str | None = None  # None: held-out sequences, else held-out moments, else held-out cameras
    metrics: tuple[str, ...] = DEFAULT_METRICS  # names in the plugin group davatar.metrics
    compat: bool = False  # the published way: held-out cameras only, mean over batches of 16, published names
    serials: tuple[str, ...] = ()  # cameras to look at; empty: all of the split (with compat: the held-out ones)
    every: int = 1  # take every n-th frame
    steps: int | None = None  # denoising steps; None = 1 for the small avatar (smallest error), 20 for the published
    sampler: str | None = None  # of the published kind; None = ddpm
    without: tuple[str, ...] = ()  # neck, torso, background: left out of a published data set's foreground mask
    device: str = "cpu"
    precision: Precision = "auto"  # inside the network, see `avatar.precision.for_painting`

    def __post_init__(self):
        if self.every < 1 or (self.steps is not None and self.steps < 1):
            raise UsageError(f"every ({self.every}) and steps ({self.steps}) must be at least 1")
        unknown = sorted(set(self.without) - {"neck", "torso", "background"})
        if unknown:
            raise UsageError(f"cannot leave {unknown[0]!r} out of the mask", mend="choose neck, torso, background")


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
    raw: str | Path | None = None,
    base: str | None = None,
    checkpoint: int | None = None,
    out: str | Path | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a run of ours or a published archive.

    Args:
        run: a run, its name or its folder.
        data: a data set; default: the one the run was trained on.
        raw: for archives, the folder of raw recordings; default: `nersemble` in the data directory.
        base: of the published kind, the frozen base; default: the one that run or archive names.
        checkpoint: step; default: the latest.
        out: where results go; default: `evaluations/` in the run.
        command: shown in the report.

    Raises:
        MissingError: there is no such run, device, checkpoint or data set.
        UsageError: unknown metric or sampler; `out` is a file. DataError: the split is empty, or has no photographs.
        Interrupted: stopped by a signal; run again to go on.
    """
    run = run if isinstance(run, runs.Run) else runs.resolve_run(run)
    check_device(settings.device)
    if out is not None:
        check_output_folder(out)
    chosen = open_metrics(settings.metrics)
    subject = _subject(run, settings, data, raw, base, checkpoint)
    split, keys = choose(subject, settings)
    clips = by_clip(keys)
    home = paths.renders_dir() / run.name if run.published else run.folder  # archives are never written into
    root = Path(out) if out else home / "evaluations"
    name = evaluation_name(subject, settings)
    folder_name = published_split(split) if settings.compat else split
    folder = EvaluationFolder(root / name / folder_name)
    render_missing(keys, subject.source, subject.paint, folder, subject.state, progress, subject.at_once)
    known = learn_baselines(subject.source, subject.splits["train"], progress)
    aggregation: Aggregation = "published" if settings.compat else "per_image"
    own, others = score(clips, subject.source, folder, known, chosen, aggregation, progress)
    about = {
        "run": run.name, "checkpoint": subject.step, "split": split, "data": str(subject.data.path),
        "steps": subject.steps, "sampler": subject.sampler, "every": settings.every, "training_frames": len(known.keys),
        "precision": subject.state["precision"],
    }  # fmt: skip
    document = result_document(own, others, aggregation, about)
    result = root / f"eval-result_{name}_{folder_name}.json"
    theirs = run.folder / "evaluations" / result.name
    if run.published and settings.compat and theirs.is_file():
        document["archive"] = {k: v for k, v in read_result(theirs).items() if "average" in k}
    write_json(result, document)
    if settings.compat:
        for clip in clips:
            folder.write_videos(clip)
    if subject.crop is not None:
        crops = {key.sequence: {} for key in keys}
        for key in keys:
            crops[key.sequence][key.serial] = dict(zip("xywh", subject.crop(key), strict=True))
        write_json(folder.root / "crop_config.json", {"crop_mapping": crops})
    shown = frame_sheet(chosen_frames(own, clips), subject.source, folder, known)
    section = evaluation_section(document, own, others, shown, command=command)
    moving = film(clips, folder, fps=10)
    report = folder.root / "report.html"
    write_text(report, render_report(page(document, section, moving)))
    return Evaluation(document, result, report, section, moving)


def _subject(
    run: runs.Run,
    settings: EvaluationSettings,
    data: RenderingData | str | Path | None,
    raw: str | Path | None,
    base: str | None,
    checkpoint: int | None,
) -> Subject:
    computing = Computing(settings.device, settings.precision, settings.compat)
    if run.published:
        path = data.path if isinstance(data, RenderingData) else data
        return archive_subject(
            run, path, raw, base, checkpoint, settings.steps, settings.sampler, settings.without, computing
        )
    asked = [flag for flag, value in (("--raw", raw), ("--without", settings.without)) if value]
    if asked:
        raise UsageError(f"{asked[0]} is for published archives", mend="leave it out")
    data = data if isinstance(data, RenderingData) else RenderingData(data or trained_on(run))
    return own_subject(run, data, base, checkpoint, settings.steps, settings.sampler, computing)


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


def choose(subject: Subject, settings: EvaluationSettings) -> tuple[str, list[SampleKey]]:
    """The split and its samples after the choice of cameras and frames.

    Raises:
        DataError: the data set holds nothing out, lacks the split, nothing is left, or photographs are missing.
    """
    splits, path = subject.splits, subject.data.path
    split = settings.split or next((name for name in PREFERRED_SPLITS if splits.get(name)), None)
    if split is None:
        raise DataError(
            "holds nothing out to evaluate on",
            file=path,
            mend="rasterize with --hold-out-sequence or --hold-out-camera",
        )
    if split not in splits:
        there = ", ".join(name for name, keys in splits.items() if keys)
        raise DataError(f"has no split {split!r}", file=path, mend=f"there are {there}")
    keys, serials = splits[split], settings.serials
    if settings.compat and not serials:
        held = {key.serial for key in splits.get("hold-out-view", ())}
        serials = tuple(sorted(held)) if split != "train" else ()
        if split == "train" and TRAINING_VIEW in {key.serial for key in keys}:
            serials = (TRAINING_VIEW,)
    absent = sorted(set(serials) - {key.serial for key in keys})
    if absent:
        there = ", ".join(sorted({key.serial for key in keys})) or "none"
        raise DataError(f"split {split} has no camera {absent[0]}", file=path, mend=f"its cameras are {there}")
    chosen = [key for key in keys if not serials or key.serial in serials]
    moments = {moment: k for k, moment in enumerate(dict.fromkeys((key.sequence, key.timestep) for key in chosen))}
    chosen = [key for key in chosen if moments[key.sequence, key.timestep] % settings.every == 0]
    if not chosen:
        raise DataError(f"split {split} has no samples", file=path)
    if missing := subject.missing(chosen):
        raise no_photograph(missing, path, subject.mend)
    return split, chosen


def published_split(split: str) -> str:
    """hold-out-sequence -> valid-hold-out-seq"""
    return PUBLISHED_SPLITS[split].lower().replace("_", "-")


def evaluation_name(subject: Subject, settings: EvaluationSettings) -> str:
    """What tells evaluations of one run apart: ckpt-300_denoising-steps-5; with compat the published names (9.5)."""
    parts = [f"ckpt-{subject.step}"]
    if settings.compat or settings.sampler:
        parts.append(f"scheduler-{subject.sampler}")
    if subject.steps != (SHIPPED_STEPS["published"] if settings.compat else subject.usual_steps):
        parts.append(f"denoising-steps-{subject.steps}")
    parts += [f"remove-{part}" for part in ("neck", "torso", "background") if part in settings.without]
    if settings.serials:
        parts.append("serials-" + "-".join(settings.serials))
    if settings.every != 1:
        parts.append(f"every-{settings.every}")
    if settings.precision != "auto":
        parts.append(settings.precision)
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
