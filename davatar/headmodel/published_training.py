"""Training a head model as published: an auto-decoder over scans, from any source of scans (spec dphm 3).

The open recipe, with fixed codes and pairs of points, is `training`'s. Here every identity and every
scan has a free code. A run folder gets checkpoints, metrics.jsonl and tensorboard/, previews, and at
the end model.safetensors, which `HeadModel.from_pretrained` reads, code tables included. Every draw
is a function of (seed, epoch, item), so a run that was killed at any step and started again ends, on
a CPU, with exactly the weights of one that was not.
"""

from __future__ import annotations

import copy
import math
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from davatar.core.errors import ConfigError, DataError
from davatar.core.interrupt import Stop, interruptible
from davatar.core.lock import exclusive
from davatar.core.progress import Progress, silent
from davatar.core.run_tracker import start_trackers, tracked_accelerator
from davatar.core.runs import CONFIG, Run
from davatar.core.settings import Resolved, fields_of, to_mapping
from davatar.core.training_state import latest_state, save_state
from davatar.headmodel.auto_decoder import AutoDecoder, Rates
from davatar.headmodel.contact_sheet import write_head_sheet
from davatar.headmodel.denormals import denormals_as_zero
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM, NPHMConfig
from davatar.headmodel.published_checkpoint import PublishedHead
from davatar.headmodel.published_losses import WEIGHTS
from davatar.headmodel.scan_items import ScanItems
from davatar.headmodel.scans import SampleCounts, ScanSettings, ScanSource, open_scans
from davatar.headmodel.weights import save_published

MODEL = "model.safetensors"


@dataclass(frozen=True)
class PublishedSettings:
    """The defaults are the published ones."""

    recipe: Literal["published"] = "published"
    """Which training these settings are for."""
    model: NPHMConfig = field(default_factory=NPHMConfig)
    data: ScanSettings = field(default_factory=ScanSettings)
    points: SampleCounts = field(default_factory=SampleCounts)
    rates: Rates = field(default_factory=Rates)
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    """Factor of each loss."""
    neutral_share: float = 0.1
    """Probability that an item is the person's neutral scan instead."""
    mirror: bool = True
    """Mirror images are further identities, with rows of their own behind the others in the code tables."""
    epochs: int = 6000
    batch: int = 32
    """Items per process and step."""
    seed: int = 0
    workers: int = 0
    """Processes that prepare items; the result does not depend on it."""
    log_steps: int = 50
    save_steps: int = 500
    """Steps between states that a killed run goes on from; only the newest is kept."""
    keep_epochs: int = 500
    """A checkpoint with a preview is kept after the first epoch and every so many."""
    preview_heads: int = 4
    preview_resolution: int = 64

    def __post_init__(self):
        if unknown := set(self.weights) - set(WEIGHTS):
            raise ConfigError(f"no loss is called {sorted(unknown)}", mend=f"there are {', '.join(WEIGHTS)}")
        if self.batch < 2:
            raise ConfigError(f"batch is {self.batch}; losses over neutral and other scans need two or more")
        if self.model.anchors != len(MEAN_ANCHORS):
            raise ConfigError(f"model.anchors is {self.model.anchors}, the mean anchors known are {len(MEAN_ANCHORS)}")


def new_network(settings: PublishedSettings) -> NPHM:
    """Untrained networks, the framework's start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return NPHM(settings.model, torch.from_numpy(MEAN_ANCHORS).float())


def train_published(
    settings: PublishedSettings,
    out_folder: str | Path,
    progress: Progress = silent,
    source: ScanSource | None = None,
) -> Path:
    """Train, or go on where a stopped run in `out_folder` is.

    Args:
        source: scans; None for what `settings.data` names.

    Returns:
        Path of model.safetensors.

    Raises:
        DataError: the folder was made with other settings, its state is damaged, scans are unreadable, or the loss
            is no number any more.
        MissingError: no data set there.
        Interrupted: a signal came; the state is saved and the same call goes on.
        UsageError: another process trains there, or no plugin is called `data.source`.
    """
    run = Run(Path(out_folder))
    source = source or open_scans(settings.data)
    accelerator = tracked_accelerator(run, progress=progress)
    with exclusive(run.folder) if accelerator.is_main_process else nullcontext(), interruptible() as stop:
        trainer = _Trainer(settings, run, source, accelerator)
        start_trackers(accelerator, trainer.step)
        try:
            with denormals_as_zero():
                return trainer.run_to_end(progress, stop)
        finally:
            accelerator.end_training()


class _Trainer:
    def __init__(self, settings: PublishedSettings, run: Run, source: ScanSource, accelerator: Accelerator):
        self.settings, self.run, self.source, self.accelerator = settings, run, source, accelerator
        parts = settings.points, settings.seed, MEAN_ANCHORS, settings.neutral_share, settings.mirror
        self.items = ScanItems(source, *parts)
        self.epoch_steps = self.items.steps_per_epoch(settings.batch, accelerator.num_processes)
        self.steps = settings.epochs * self.epoch_steps
        network = new_network(settings).to(accelerator.device)
        rows = self.items.identity_rows, self.items.expression_rows
        self.decoder = AutoDecoder(network, *rows, settings.rates, settings.weights, accelerator)
        self.step, self.sums, self.summed = 0, {}, 0
        self._resume()

    def run_to_end(self, progress: Progress, stop: Stop) -> Path:
        settings, accelerator = self.settings, self.accelerator
        place = accelerator.process_index, accelerator.num_processes
        batches = self.items.batches(self.step, settings.batch, *place, settings.workers)
        with progress.task("head model, auto-decoder", self.steps) as task:
            task.advance(self.step)
            while self.step < self.steps:
                figures = self.train_step(next(batches))
                task.advance(1)
                last, kept = self.step == self.steps, self._is_kept(self.step)
                if self.step % settings.log_steps == 0 or last:
                    self._log()
                    task.advance(0, loss=figures["loss"])
                if (self.step % settings.save_steps == 0 or kept or stop.requested) and not last:
                    self.save()
                if kept and not last:
                    self.preview()
                if not last:
                    stop.check()
        self.save()
        self.preview()
        path = self.run.folder / MODEL
        if accelerator.is_main_process:
            self.write(path)
        return path

    def train_step(self, batch) -> dict[str, float]:
        device = self.accelerator.device
        rows = batch.identity_rows.to(device), batch.expression_rows.to(device)
        figures = self.decoder.step(batch.points.to(device), *rows, self.step // self.epoch_steps)
        self.step += 1
        if not math.isfinite(figures["loss"]):
            found = f"the loss is {figures['loss']} at step {self.step}"
            raise DataError(found, file=self.run.folder, mend="lower the rates")
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.summed += 1
        return figures

    def _is_kept(self, step: int) -> bool:
        """Whether the step ends the first epoch, or one of every `keep_epochs`."""
        epoch, rest = divmod(step, self.epoch_steps)
        return rest == 0 and (epoch == 1 or epoch % self.settings.keep_epochs == 0)

    def _log(self) -> None:
        figures = {name: value / self.summed for name, value in self.sums.items()}
        epoch = (self.step - 1) // self.epoch_steps
        self.accelerator.log(figures | {"epoch": epoch, "rate": self.decoder.identity.rate}, step=self.step)
        self.sums, self.summed = {}, 0

    def preview(self) -> None:
        """A sheet of a few training heads as the networks have them now."""
        settings, decoder = self.settings, self.decoder
        if not self.accelerator.is_main_process or settings.preview_heads == 0:
            return
        model = HeadModel(copy.deepcopy(decoder.model).cpu(), None, "", "in training")
        chosen = np.unique(np.linspace(0, len(self.source.scans) - 1, settings.preview_heads).astype(int))
        heads = []
        for number in chosen:
            scan = self.source.scans[number]
            codes = decoder.identity.weight[scan.identity].cpu(), decoder.expression.weight[number].cpu()
            heads.append((scan.label, *codes))
        path = self.run.folder / "previews" / f"step-{self.step:06d}.png"
        write_head_sheet(path, model, heads, resolution=settings.preview_resolution)

    def write(self, path: Path) -> None:
        """The trained networks and code tables as one file."""
        decoder = self.decoder
        about = {
            "source": f"davatar, scans `{self.source.name}`",
            "epoch": self.step // self.epoch_steps,
            "identities": list(self.source.identities),
            "expressions": [scan.label for scan in self.source.scans],
            "mirrored": "rows behind those are mirror images" if self.settings.mirror else "none",
        }
        network = copy.deepcopy(decoder.model).cpu()
        head = PublishedHead(network, decoder.identity.weight.cpu(), decoder.expression.weight.cpu(), about)
        data = f"scans of source `{self.source.name}`"
        save_published(path, head, "as the scans it was trained from", data, to_mapping(self.settings))

    def save(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        state = {
            "settings": to_mapping(self.settings),
            "step": self.step,
            "sums": self.sums,
            "summed": self.summed,
            **self.decoder.state(),
        }
        save_state(self.run, self.step, state)
        for step, folder in self.run.checkpoints().items():
            if step < self.step and not self._is_kept(step):
                shutil.rmtree(folder)

    def _resume(self) -> None:
        main = self.accelerator.is_main_process
        if main and not (self.run.folder / CONFIG).is_file():
            self.run.write_config(Resolved(self.settings, dict.fromkeys(fields_of(PublishedSettings), "argument")))
        same, parts = {"settings": to_mapping(self.settings)}, ("model", "optimiser", "identity", "expression")
        state = latest_state(self.run, same, ("step", "sums", "summed", *parts))
        if state is not None:
            self.step, self.sums, self.summed = state["step"], state["sums"], state["summed"]
            self.decoder.restore(state)
        if main:
            self.run.rewind(self.step)


def plan(settings: PublishedSettings) -> dict[str, Any]:
    """What a training would take, without doing it; memory and disk in MB, rough."""
    source = open_scans(settings.data)
    items = ScanItems(source, settings.points, settings.seed, MEAN_ANCHORS, settings.neutral_share, settings.mirror)
    network = new_network(settings)
    parameters = sum(p.numel() for p in network.parameters())
    codes = items.identity_rows * settings.model.identity_size + items.expression_rows * settings.model.expression_size
    epoch = items.steps_per_epoch(settings.batch)
    kept = 2 + settings.epochs // settings.keep_epochs
    return {
        "kind": "nphm, auto-decoder",
        "source": settings.data.source,
        "identities": len(source.identities),
        "scans": len(source.scans),
        "steps": settings.epochs * epoch,
        "steps_per_epoch": epoch,
        "parameters": parameters,
        "code_values": codes,
        "disk_mb": round((kept * 3 + 1) * (parameters + codes) * 4 / 1e6, 1),
        "outputs": [MODEL, "checkpoints/", "previews/", "metrics.jsonl", "tensorboard/", "config.yaml"],
    }
