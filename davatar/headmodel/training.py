"""Training the open head model on heads drawn from the morphable model.

Three stages, each in one cosine schedule: the identity decoder alone on canonical heads, the
deformation alone on correspondences, then both through their composition on posed heads. The loss
is on pairs of points p +- h n: where the field's zero lies between them (position) and how steep it
is (slope); a plain loss on distances ends in a flat field that only looks accurate. Lengths in the
losses and in `metrics.jsonl` are mm.

Every random draw is a function of (seed, stage, step), so a run that was killed and started again in
the same folder ends with the same weights as one that was not.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from davatar.core.errors import DataError
from davatar.core.files import atomic_path, read_json, write_json, write_text
from davatar.core.interrupt import Stop, interruptible
from davatar.core.progress import Progress, silent
from davatar.headmodel.denormals import denormals_as_zero
from davatar.headmodel.head_pool import HeadPool
from davatar.headmodel.ict_codes import CodeMaps, open_code_maps
from davatar.headmodel.losses import stage_loss
from davatar.headmodel.nphm import NPHM
from davatar.headmodel.open_settings import STAGES, Stage, StageSettings, TrainingSettings
from davatar.headmodel.open_start import first_model, new_model
from davatar.headmodel.weights import save_weights

if TYPE_CHECKING:
    from davatar.headmodel.published_training import PublishedSettings

STATE = "state.pt"  # what a killed run goes on from


def _parameters(model: NPHM, stage: Stage) -> list[torch.nn.Parameter]:
    parts = {"identity": [model.identity], "deformation": [model.deformation]}.get(stage, [model])
    return [p for part in parts for p in part.parameters() if p.requires_grad]


def _rate(stage: StageSettings, step: int) -> float:
    """Linear warm-up over the first 1 %, then half a cosine."""
    warm = min(1.0, (step + 1) / max(1.0, 0.01 * stage.steps))
    wave = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return warm * (stage.last_learning_rate + (stage.learning_rate - stage.last_learning_rate) * wave)


def _save(path: Path, **state) -> None:
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _settings_match(folder: Path, settings: TrainingSettings) -> None:
    """Write the settings of a new folder; refuse to go on in one that was made with others."""
    path, mine = folder / "settings.json", json.loads(json.dumps(asdict(settings)))
    if path.exists():
        if read_json(path) != mine:
            raise DataError("was made with other settings", file=path, mend="choose another output folder")
    else:
        write_json(path, mine)


def _forget_metrics(path: Path, stage: Stage, step: int) -> None:
    """Drop the lines of steps that will be taken again."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # a kill cut the last line
            break
        if (STAGES.index(line["stage"]), line["step"]) <= (STAGES.index(stage), step):
            kept.append(text)
    write_text(path, "".join(f"{text}\n" for text in kept))


class _StageRun:
    """One stage in progress: optimiser, averaged weights, and how they are stored and taken up again."""

    def __init__(self, model: NPHM, stage: Stage, settings: TrainingSettings, maps: CodeMaps, folder: Path):
        self.model, self.stage, self.settings, self.maps, self.folder = model, stage, settings, maps, folder
        self.plan: StageSettings = getattr(settings, stage)
        self.parameters = _parameters(model, stage)
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.plan.learning_rate, betas=(0.9, 0.99))
        self.average = [p.detach().clone() for p in self.parameters]
        self.pool = HeadPool(stage, settings, maps)
        self.done = 0

    def restore(self, state: dict) -> None:
        self.done, self.average = state["step"], state["average"]
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self) -> None:
        _save(
            self.folder / STATE,
            stage=self.stage,
            step=self.done,
            model=self.model.state_dict(),
            optimiser=self.optimiser.state_dict(),
            average=self.average,
        )
        average = copy.deepcopy(self.model)
        mine = dict(zip(map(id, self.parameters), self.average, strict=True))
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), self.model.parameters(), strict=True):
                ours.copy_(mine.get(id(theirs), theirs))
        save_weights(self.folder / "latest.safetensors", average, self.maps, self.settings)

    def take_average(self) -> None:
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.copy_(mean)

    def step(self) -> dict[str, float]:
        """One optimiser step; the loss and its terms."""
        step, plan = self.done, self.plan
        self.pool.advance(step)
        wide_start = self.stage == "identity"
        corner = 20.0 * max(0.0, 1 - step / (0.05 * plan.steps)) + 1.0 if wide_start else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = _rate(plan, step)
        self.optimiser.zero_grad(set_to_none=True)
        loss, terms = stage_loss(self.model, self.stage, self.pool.batch(step), corner, plan.relative)
        loss.backward()
        self.optimiser.step()
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.done += 1
        return {name: float(value.detach()) for name, value in (terms | {"loss": loss}).items()}


def _run_stage(run: _StageRun, progress: Progress, stop: Stop) -> None:
    plan, settings, sums, count, began = run.plan, run.settings, {}, 0, time.perf_counter()
    path = run.folder / "metrics.jsonl"
    _forget_metrics(path, run.stage, run.done)
    with progress.task(f"head model, {run.stage}", plan.steps) as task, open(path, "a") as log:
        task.advance(run.done)
        while run.done < plan.steps:
            for name, value in run.step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            if run.done % settings.log_steps == 0 or run.done == plan.steps:
                figures = {name: value / count for name, value in sums.items()}
                line = {"stage": run.stage, "step": run.done, **figures, "seconds": time.perf_counter() - began}
                rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}
                print(json.dumps(rounded), file=log, flush=True)
                task.advance(count, **figures)
                sums, count = {}, 0
            if run.done < plan.steps and (stop.requested or run.done % settings.checkpoint_steps == 0):
                run.save()
                stop.check()
    run.take_average()


def train_nphm(
    settings: TrainingSettings | PublishedSettings, out_folder: str | Path, progress: Progress = silent
) -> Path:
    """Train a head model, or go on where a killed run in `out_folder` stopped.

    Args:
        settings: what to train, by the open recipe or by the published one (`published_training`); a folder made with
            other settings is refused.
        out_folder: gets settings.json, metrics.jsonl, state.pt (resume), latest.safetensors and model.safetensors.

    Returns:
        Path of model.safetensors, which `HeadModel.from_pretrained` reads.

    Raises:
        DataError: the folder was made with other settings, its state is damaged, or `start` is of other sizes.
        MissingError: there is no such `start`.
        Interrupted: a signal arrived; the same call goes on.
    """
    from davatar.headmodel.published_training import PublishedSettings, train_published

    if isinstance(settings, PublishedSettings):
        return train_published(settings, out_folder, progress)
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    _settings_match(folder, settings)
    maps = open_code_maps()
    path = folder / STATE
    resumes = path.exists()  # then `start` has done its part, and may be gone
    model, state = (new_model if resumes else first_model)(settings, maps), None
    if resumes:
        try:
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
        except (RuntimeError, KeyError, EOFError, OSError) as error:
            raise DataError(
                f"is not a readable training state: {error}", file=path, mend="remove it to start over"
            ) from error
    stages = [stage for stage in STAGES if getattr(settings, stage).steps > 0]
    first = 0 if state is None else stages.index(state["stage"])
    with interruptible() as stop, denormals_as_zero():
        for number, stage in enumerate(stages[first:], start=first):
            run = _StageRun(model, stage, settings, maps, folder)
            if state is not None and "optimiser" in state:
                run.restore(state)
            state = None
            _run_stage(run, progress, stop)
            if number + 1 < len(stages):
                _save(path, stage=stages[number + 1], step=0, model=model.state_dict())
                save_weights(folder / "latest.safetensors", model, maps, settings)
                stop.check()
    save_weights(folder / "model.safetensors", model, maps, settings)
    return folder / "model.safetensors"
