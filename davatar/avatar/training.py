"""Training an avatar on a data set, into a run folder.

A step sees `batch` x `accumulation` frames per process (`trainer`). The budget is a number of steps, or
seconds of training; a run that was stopped goes on at its latest whole checkpoint, and with a budget of steps
it ends with the same weights as one that was never stopped. Several processes make one run; the first one
writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from davatar.avatar import processes
from davatar.avatar.checkpoints import Position, save_state
from davatar.avatar.compiling import compile_denoiser
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.frames import Frames
from davatar.avatar.memory import FRAME_BYTES, KEPT_BYTES
from davatar.avatar.model import Avatar, new_avatar
from davatar.avatar.precision import choose
from davatar.avatar.previews import preview, spread
from davatar.avatar.probes import probes
from davatar.avatar.reading import ReadAhead
from davatar.avatar.resuming import resume
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.trainer import Trainer
from davatar.avatar.training_log import TrainingLog, open_accelerator
from davatar.core.errors import DataError, Interrupted, ResourceError
from davatar.core.interrupt import Stop, interruptible
from davatar.core.lock import exclusive
from davatar.core.manifest import FILE as MANIFEST
from davatar.core.manifest import end_manifest, write_manifest
from davatar.core.progress import Progress, Task, silent
from davatar.core.runs import Run, create_run
from davatar.core.settings import Resolved, fields_of
from davatar.dataset.rendering_data import RenderingData

CODEC_FRAMES = 64


def train_avatar(
    dataset: RenderingData | str | Path,
    run: Run | None = None,
    settings: AvatarSettings | Resolved[AvatarSettings] | None = None,
    progress: Progress = silent,
    name: str | None = None,
) -> Run:
    """Train on a data set's `train` split; validate on what it holds out.

    Args:
        dataset: a data set of `dataset.rasterize_tracks`, or its folder.
        run: to go on with, or to fill; None makes a new one called `name`.

    Returns:
        The run.

    Raises:
        DataError: no frames with pictures, frames that do not fit the avatar, or a run without a whole checkpoint.
        UsageError: another process trains this run, or the run was made with another seed or step size.
        ResourceError: out of memory or disk; what was saved stays.
        Interrupted: a signal arrived; the state is saved, call again with the run to go on.
    """
    progress = progress if processes.is_first() else silent
    data = dataset if isinstance(dataset, RenderingData) else RenderingData(dataset)
    resolved = settings if isinstance(settings, Resolved) else _plain(settings or AvatarSettings())
    with ExitStack() as stack:
        if run is not None:
            _lock(run, stack)
        chosen = replace(resolved.value, precision=_precision(resolved.value, run))
        avatar = new_avatar(chosen, device_name())
        train, watched = _split(data, avatar, chosen, progress)
        learnt, shown = stack.enter_context(_in_reach(train, progress)), list(watched)
        if run is None:  # only now, so that data that cannot be read leave no empty run
            run = processes.first(lambda: create_run(name=name))
            _lock(run, stack)
        progress.info(f"{run.name} in {run.folder}")
        session = _Session(run, resolved, chosen, data) if processes.is_first() else nullcontext()
        _fit(avatar, learnt, shown, run, chosen, progress, session)
    return run


def fit(
    avatar: Avatar,
    train: Sequence[HeadMaps],
    watched: Sequence[HeadMaps],
    run: Run,
    settings: AvatarSettings,
    progress: Progress = silent,
) -> dict[str, float]:
    """The loop: train until the budget is used, with checkpoints, log lines and previews.

    Args:
        watched: frames for previews and probes, not learnt from.

    Returns:
        Figures of the last preview.

    Raises:
        UsageError: another process trains this run.
    """
    with ExitStack() as stack:
        _lock(run, stack)
        return _fit(avatar, train, watched, run, settings, progress, nullcontext())


def _fit(
    avatar: Avatar,
    train: Sequence[HeadMaps],
    watched: Sequence[HeadMaps],
    run: Run,
    settings: AvatarSettings,
    progress: Progress,
    session: AbstractContextManager,
) -> dict[str, float]:
    """`fit` in a run that is locked.

    Args:
        session: entered when the run is new, or when its checkpoint was found to fit.
    """
    if train[0].image is None:
        raise DataError(f"{train[0].key} has no picture to learn from", mend="rasterize a recording with colour")
    with _memory_errors(run, settings), ExitStack() as stack:
        if run.latest_checkpoint() is None:
            stack.enter_context(session)
        accelerator = open_accelerator(run, settings)
        avatar = avatar.to(accelerator.device)
        avatar.lighten()
        if settings.compile:
            compile_denoiser(avatar)
        optimizers = avatar.optimizers()
        asked = Position(seed=settings.seed, frames=settings.frames_per_step * accelerator.num_processes)
        found = resume(run, avatar, optimizers, asked, progress)
        if found is None:
            avatar.prepare([train[i] for i in spread(len(train), CODEC_FRAMES)])
        else:
            stack.enter_context(session)
        trainer = Trainer(accelerator, avatar, optimizers, train, settings)
        if found is not None:
            trainer.go_on(found)
        position = asked if found is None else found.position
        log = TrainingLog(run, accelerator)
        with interruptible() as stop, progress.task("training", _length(settings.budget)) as task:
            if accelerator.is_main_process and found is not None:
                run.rewind(position.step)
            task.advance(position.step if settings.budget.steps else position.seconds)
            figures = _loop(trainer, position, watched, log, stop, task)
            log.close()
        return figures


def _lock(run: Run, stack: ExitStack) -> None:
    """Hold the run's folder until `stack` closes; the first process holds it for all."""
    processes.first(lambda: stack.enter_context(exclusive(run.folder)))


def device_name() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _plain(settings: AvatarSettings) -> Resolved[AvatarSettings]:
    return Resolved(settings, {key: "python" for key in fields_of(AvatarSettings)})


def _precision(settings: AvatarSettings, run: Run | None) -> str:
    """`auto` is decided once, for all processes and for all sessions of a run."""
    if settings.precision != "auto":
        return settings.precision
    before = run.manifest.get("precision") if run is not None and (run.folder / MANIFEST).is_file() else None
    return before or processes.first(lambda: str(choose("auto", settings.kind, device_name())).removeprefix("torch."))


def _split(data: RenderingData, avatar: Avatar, settings: AvatarSettings, progress: Progress) -> tuple[Frames, Frames]:
    """Frames to learn from, and frames to look at."""
    splits = data.splits()
    train = Frames(data, splits["train"], avatar.resolution, avatar.told)
    if not len(train):
        raise DataError("has no training frames", file=data.path, mend="rasterize more frames, or hold out fewer")
    held = [key for split, keys in splits.items() if split != "train" for key in keys]
    if not held:
        progress.warn(f"{data.path} holds no frames out: previews and probes show frames that the avatar learns from")
    pool = held or train.keys
    shown = [pool[i] for i in spread(len(pool), settings.preview_frames)]
    return train, Frames(data, shown, avatar.resolution, avatar.told)


@contextmanager
def _in_reach(frames: Frames, progress: Progress) -> Iterator[Sequence[HeadMaps]]:
    """The frames in memory, or read ahead where they are too many."""
    if len(frames) * frames.resolution**2 * FRAME_BYTES <= KEPT_BYTES:
        frames.load_all(progress)
        yield frames
        return
    ahead = ReadAhead(frames.read, len(frames))
    try:
        yield ahead
    finally:
        ahead.close()


class _Session:
    """Config and manifest of the run, from when its state was found to fit until the training ends."""

    def __init__(self, run: Run, resolved: Resolved[AvatarSettings], settings: AvatarSettings, data: RenderingData):
        self.run, self.resolved, self.settings, self.data = run, resolved, settings, data

    def __enter__(self) -> None:
        path, settings = self.data.path, self.settings
        self.run.write_config(self.resolved)
        inputs = {file: path / file for file in ("config.json", "stats.json") if (path / file).is_file()}
        about = {"dataset": str(path.absolute()), "kind": settings.kind, "precision": settings.precision}
        about["processes"] = processes.count()
        write_manifest(self.run.folder, inputs, seed=settings.seed, device=device_name(), **about)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        figures = self.run.metrics()[-1:] if error is None else []
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        status = "done" if error is None else "interrupted" if stopped else "failed"
        end_manifest(self.run.folder, status, **{k: v for line in figures for k, v in line.items() if k != "step"})


@contextmanager
def _memory_errors(run: Run, settings: AvatarSettings) -> Iterator[None]:
    """
    Raises:
        ResourceError: the block ran out of memory; says which flags need less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's on a GPU is a RuntimeError, on a CPU a bare one
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        saved = run.latest_checkpoint()
        raise ResourceError(
            f"out of memory with {settings.batch} frames of {settings.resolution} pixels at once"
            + (f"; saved up to step {saved[0]}" if saved else ""),
            file=run.folder,
            mend=less_memory(run, settings),
        ) from error


def less_memory(run: Run, settings: AvatarSettings) -> str:
    """What to type for the same training in less memory."""
    if settings.batch > 1:
        batch = max(part for part in range(1, settings.batch) if settings.batch % part == 0)
        accumulation = settings.accumulation * settings.batch // batch
        return (
            f"`davatar avatar train --resume {run.name} --batch {batch} --accumulation {accumulation}` learns the "
            "same with fewer frames at once"
        )
    if settings.kind == "published" and not settings.published_training.gradient_checkpointing:
        return "start with --set published_training.gradient_checkpointing=true"
    return f"start with --preset {'small' if settings.kind == 'published' else 'tiny'}, or a lower resolution"


def _loop(
    trainer: Trainer, at: Position, watched: Sequence[HeadMaps], log: TrainingLog, stop: Stop, task: Task
) -> dict[str, float]:
    settings, run, main = trainer.settings, log.run, trainer.accelerator.is_main_process
    alone = trainer.accelerator.num_processes == 1
    step, seconds = at.step, at.seconds
    figures: dict[str, float] = {}
    while used(settings.budget, step, seconds) < 1:
        done = trainer.step(step, used(settings.budget, step, seconds), stop.requested)
        step, seconds = step + 1, seconds + done.seconds
        if not math.isfinite(done.loss):
            raise DataError(f"the loss is {done.loss} at step {step}", file=run.folder, mend="lower the rates")
        finished = used(settings.budget, step, seconds) >= 1
        stopping = done.stop or (alone and stop.requested)  # several processes stop at a step they agree on
        looks = bool(watched) and (step % settings.preview_every == 0 or finished)
        log.add(done)
        if main and (step % settings.log_every == 0 or looks):
            if looks:
                figures = _look(trainer, watched, run.folder / "previews" / f"step-{step:06d}.png")
            line = log.write(step, seconds=seconds, **(figures if looks else {}))
            task.advance(0, loss=line["loss"])
        if main and (step % settings.checkpoint_every == 0 or finished or stopping):
            _save(trainer, run, replace(at, step=step, seconds=seconds))
        task.advance(1 if settings.budget.steps else done.seconds)
        if stopping:
            raise Interrupted("stopped; what was finished is saved", mend=f"`davatar avatar train --resume {run.name}`")
    return figures


def used(budget: Budget, step: int, seconds: float) -> float:
    """Share of the budget, 0..1 and above."""
    return step / budget.steps if budget.steps else seconds / budget.seconds


def _length(budget: Budget) -> float:
    return budget.steps or budget.seconds


def _look(trainer: Trainer, watched: Sequence[HeadMaps], path: Path) -> dict[str, float]:
    """Pictures and figures on frames that are not learnt from, always from the same noise."""
    avatar, settings, average = trainer.avatar, trainer.settings, trainer.average
    avatar.eval()
    with nullcontext() if average is None else average.shown():
        found = preview(avatar, watched, path, settings.preview_steps, settings.batch)
        found |= probes(avatar, watched, settings.batch)
    avatar.train()
    return found


def _save(trainer: Trainer, run: Run, position: Position) -> None:
    avatar, average = trainer.avatar, trainer.average
    save_state(
        run,
        avatar.trained_state(),
        avatar.kind,
        avatar.sizes(),
        trainer.optimizers,
        position,
        trainer.settings.keep_checkpoints,
        None if average is None else average.average,
        trainer.scaler.state_dict(),
    )
