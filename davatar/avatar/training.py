"""Training an avatar on a data set, into a run folder.

A step sees `batch` frames per process. The budget is a number of steps, or seconds of training; a run
that was stopped goes on at its latest checkpoint, and with a budget of steps it ends with the same
weights as one that was never stopped: frames, times and noise of step k depend on (seed, k) alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from davatar.avatar.checkpoints import Position, load_state, randomness, save_state
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.frames import Frames
from davatar.avatar.model import Avatar, new_avatar
from davatar.avatar.previews import preview, spread
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.core.errors import DataError, UsageError
from davatar.core.interrupt import Stop, interruptible
from davatar.core.lock import exclusive
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
        DataError: no frames with pictures, or frames that do not fit the avatar.
        Interrupted: a signal arrived; the state is saved, call again with the run to go on.
    """
    data = dataset if isinstance(dataset, RenderingData) else RenderingData(dataset)
    resolved = settings if isinstance(settings, Resolved) else _plain(settings or AvatarSettings())
    chosen = resolved.value
    splits = data.splits()
    avatar = new_avatar(chosen)
    train = Frames(data, splits["train"], avatar.resolution, avatar.told)
    held = [key for split, keys in splits.items() if split != "train" for key in keys]
    checked = [held[i] for i in spread(len(held), chosen.preview_frames)] if held else []
    watched = Frames(data, checked or splits["train"][: chosen.preview_frames], avatar.resolution, avatar.told)
    if not len(train):
        raise DataError("has no training frames", file=data.path, mend="rasterize more frames, or hold out fewer")
    run = create_run(name=name) if run is None else run
    run.write_config(resolved)
    inputs = {file: data.path / file for file in ("config.json", "stats.json") if (data.path / file).is_file()}
    write_manifest(run.folder, inputs, seed=chosen.seed, dataset=str(data.path.absolute()), kind=avatar.kind)
    if avatar.resolution <= 256:
        train.load_all(progress)
    try:
        figures = fit(avatar, train, list(watched), run, chosen, progress)
    except BaseException as error:
        end_manifest(run.folder, "interrupted" if getattr(error, "exit_code", 130) == 130 else "failed")
        raise
    end_manifest(run.folder, "done", **figures)
    return run


def _plain(settings: AvatarSettings) -> Resolved[AvatarSettings]:
    return Resolved(settings, {key: "python" for key in fields_of(AvatarSettings)})


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
        watched: frames for previews, not learnt from.

    Returns:
        Figures of the last preview.

    Raises:
        UsageError: another process trains this run.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    with exclusive(run.folder) if accelerator.is_main_process else nullcontext():
        avatar = avatar.to(accelerator.device)
        optimizers = avatar.optimizers()
        position = Position(seed=settings.seed, processes=accelerator.num_processes)
        if found := run.latest_checkpoint():
            position = _resumed(found[1], avatar, optimizers, position)
            if accelerator.is_main_process:
                run.rewind(position.step)
        else:
            avatar.prepare([train[i] for i in spread(len(train), CODEC_FRAMES)])
        model, *prepared = accelerator.prepare(avatar, *optimizers)
        trainer = _Trainer(accelerator, avatar, model, prepared, train, settings)
        budget = settings.budget
        with interruptible() as stop, progress.task("training", budget.steps or budget.seconds) as task:
            task.advance(position.step if budget.steps else position.seconds)
            return _loop(trainer, position, watched, run, stop, task)


def _resumed(folder: Path, avatar: Avatar, optimizers: list, fresh: Position) -> Position:
    position = load_state(folder, avatar.load_trained, avatar.kind, avatar.sizes(), optimizers)
    if (position.seed, position.processes) != (fresh.seed, fresh.processes):
        raise UsageError(
            f"was trained with seed {position.seed} on {position.processes} processes, "
            f"asked for seed {fresh.seed} on {fresh.processes}",
            file=folder,
            mend="resume with the same, or start a new run",
        )
    return position


@dataclass
class _Trainer:
    accelerator: Accelerator
    avatar: Avatar
    model: torch.nn.Module  # the avatar, wrapped when several processes train
    optimizers: list
    train: Sequence[HeadMaps]
    settings: AvatarSettings

    def frames(self, step: int) -> list[HeadMaps]:
        """This process's frames of a step: epochs are shuffled whole."""
        settings, count = self.settings, len(self.train)
        first = (step * self.accelerator.num_processes + self.accelerator.process_index) * settings.batch
        orders: dict[int, np.ndarray] = {}
        chosen = []
        for place in range(first, first + settings.batch):
            epoch, row = divmod(place, count)
            if epoch not in orders:
                orders[epoch] = np.random.default_rng([settings.seed, epoch]).permutation(count)
            chosen.append(self.train[int(orders[epoch][row])])
        return chosen

    def step(self, step: int, done: float) -> float:
        """One optimisation step; `done` of the budget (0..1) was used before it. Returns the loss."""
        rng = randomness(self.settings.seed, step, self.accelerator.process_index)
        batch = self.avatar.batch(self.frames(step)).to(self.accelerator.device)
        rate = self.avatar.rate(step, done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * (rate if group.get("scheduled", True) else 1.0)
            optimizer.zero_grad(set_to_none=True)
        losses = self.model(batch, rng)
        self.accelerator.backward(losses["loss"])
        self.accelerator.clip_grad_norm_(self.avatar.clipped(), self.settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return float(losses["loss"].detach())

    def agreed(self, seconds: float) -> float:
        """The longest time that any process has used, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        mine = torch.tensor([seconds], device=self.accelerator.device, dtype=torch.float64)
        return float(self.accelerator.gather(mine).max())


def _loop(trainer: _Trainer, at: Position, watched: Sequence[HeadMaps], run: Run, stop: Stop, task: Task) -> dict:
    settings, main = trainer.settings, trainer.accelerator.is_main_process
    clock = time.process_time if settings.budget.clock == "cpu" else time.perf_counter
    step, seconds = at.step, at.seconds
    losses: list[float] = []
    figures: dict[str, float] = {}
    while used(settings.budget, step, seconds) < 1:
        start = clock()
        losses.append(trainer.step(step, used(settings.budget, step, seconds)))
        spent = trainer.agreed(seconds + clock() - start) - seconds
        step, seconds = step + 1, seconds + spent
        finished = used(settings.budget, step, seconds) >= 1
        if not math.isfinite(losses[-1]):
            raise DataError(f"the loss is {losses[-1]} at step {step}", file=run.folder, mend="lower the rates")
        looks = bool(watched) and (step % settings.preview_every == 0 or finished)
        if main and (step % settings.log_every == 0 or looks):
            line = {"loss": float(np.mean(losses)), "seconds": seconds}
            if looks:
                figures = preview(trainer.avatar, watched, run.folder / "previews" / f"step-{step:06d}.png")
            run.log(step, **line, **(figures if looks else {}))
            task.advance(0, loss=line["loss"])
            losses.clear()
        if main and (step % settings.checkpoint_every == 0 or finished or stop.requested):
            _save(trainer, run, Position(step, seconds, at.seed, at.processes))
        task.advance(1 if settings.budget.steps else spent)
        stop.check("run again with the same run to go on")
    return figures


def used(budget: Budget, step: int, seconds: float) -> float:
    """Share of the budget, 0..1 and above."""
    return step / budget.steps if budget.steps else seconds / budget.seconds


def _save(trainer: _Trainer, run: Run, position: Position) -> None:
    avatar = trainer.avatar
    optimizers = [getattr(wrapped, "optimizer", wrapped) for wrapped in trainer.optimizers]
    keep = trainer.settings.keep_checkpoints
    save_state(run, avatar.trained_state(), avatar.kind, avatar.sizes(), optimizers, position, keep)
