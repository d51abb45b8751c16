"""Training a prior: draw codes, noise them, ask the network, step; and the moving average that is kept.

Every random draw is a function of (seed, process, step), so a run that was killed and started again
in the same folder ends, on a CPU, with exactly the weights of one that was not. A run folder gets
checkpoints, metrics.jsonl and TensorBoard events (losses, and validation per noise level beside that of
a fitted Gaussian), previews (heads sampled with one seed) and at the end prior.safetensors, which
`CodePrior.from_pretrained` reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from davatar.core.errors import DataError
from davatar.core.interrupt import Stop, interruptible
from davatar.core.lock import exclusive
from davatar.core.manifest import end_manifest, write_manifest
from davatar.core.progress import Progress, silent
from davatar.core.run_tracker import start_trackers, tracked_accelerator
from davatar.core.runs import CONFIG, Run
from davatar.core.settings import Resolved, fields_of, to_mapping
from davatar.core.training_state import latest_state, save_state
from davatar.diffusion.loss import training_loss
from davatar.diffusion.schedule import named_schedule
from davatar.headmodel.head_model import HeadModel
from davatar.prior.checkpoint import FILE_NAME, write_prior
from davatar.prior.code_prior import CodePrior, Kind
from davatar.prior.ema import Ema
from davatar.prior.evaluation import level_losses
from davatar.prior.gallery import preview
from davatar.prior.gaussian import gaussian_network, gaussian_of
from davatar.prior.network import build_network
from davatar.prior.population import Population, make_population
from davatar.prior.portrait import Rasterizes
from davatar.prior.settings import PriorSettings

CHUNK = 64  # steps whose values are drawn at once
VALIDATION_VALUES = 1024
PREVIEWS = "previews"
LICENCES = {
    "identity": "weights Apache-2.0; derived from ICT-FaceKit (MIT)",
    "expression": "weights Apache-2.0; derived from ICT-FaceKit (MIT) and captured motion (MIT)",
    "joint": "weights Apache-2.0; derived from ICT-FaceKit (MIT) and captured motion (MIT)",
}


class Batches:
    """Normalised values, times and noise of each step; which ones depends only on seed, process and step."""

    def __init__(self, population: Population, settings: PriorSettings, process: int = 0):
        self.population, self.settings, self.process = population, settings, process
        self.chunk, self.values = -1, np.zeros(0)

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """clean [B, 1, Lw], t [B], noise [B, 1, Lw]."""
        settings, size = self.settings, self.settings.batch
        chunk, place = divmod(step, CHUNK)
        if chunk != self.chunk:
            rng = np.random.default_rng([settings.seed, 10, self.process, chunk])
            self.values = self.population.normalised(self.population.draw(size * CHUNK, rng))
            self.chunk = chunk
        clean = torch.from_numpy(self.values[place * size : (place + 1) * size])[:, None]
        rng = np.random.default_rng([settings.seed, 11, self.process, step])
        t = torch.from_numpy(rng.integers(settings.timesteps, size=size))
        return clean, t, torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))


def train_prior(
    kind: Kind,
    settings: PriorSettings,
    out_folder: str | Path,
    progress: Progress = silent,
    population: Population | None = None,
    rasterizer: Rasterizes | None = None,
) -> Path:
    """Train a prior, or go on where a stopped run in `out_folder` is.

    Args:
        kind: "identity", "expression" or "joint" (both codes, one after the other).
        population: whose codes; None: what `settings.data` says.
        rasterizer: paints previews at every checkpoint where the codes' head model is known; None: no pictures.

    Returns:
        Path of prior.safetensors.

    Raises:
        DataError: the folder was made with other settings, its state is damaged, the codes are unreadable, or the
            training diverged.
        Interrupted: a signal came; the state is saved and the same call goes on.
    """
    run = Run(Path(out_folder))
    accelerator = tracked_accelerator(run, settings.trackers, progress, settings.mixed_precision)
    main = accelerator.is_main_process
    with exclusive(run.folder) if main else nullcontext(), interruptible() as stop:
        population = population or make_population(kind, settings.data, settings.seed)
        trainer = _Trainer(kind, settings, run, population, accelerator, rasterizer)
        with _recorded(run, kind, settings, str(accelerator.device), stop) if main else nullcontext():
            try:
                return trainer.run_to_end(progress, stop)
            finally:
                accelerator.end_training()  # closes the trackers' files


@contextmanager
def _recorded(run: Run, kind: Kind, settings: PriorSettings, device: str, stop: Stop) -> Iterator[None]:
    """Keep the run's config and manifest while the block runs."""
    if not (run.folder / CONFIG).is_file():
        run.write_config(Resolved(settings, dict.fromkeys(fields_of(PriorSettings), "argument")))
    inputs = {"codes": settings.data.codes} if settings.data.codes != "open" else {}
    inputs |= {"motion": settings.data.motion} if settings.data.motion else {}
    write_manifest(run.folder, inputs, settings.seed, device=device, kind=kind)
    status = "failed"
    try:
        yield
        status = "done"
    finally:
        end_manifest(run.folder, "interrupted" if stop.requested else status)


def make_optimiser(network: nn.Module, settings: PriorSettings) -> torch.optim.Optimizer:
    """Adam as published (spec dphm 4.5)."""
    return torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)


class _Trainer:
    def __init__(
        self,
        kind: Kind,
        settings: PriorSettings,
        run: Run,
        population: Population,
        accelerator: Accelerator,
        rasterizer: Rasterizes | None,
    ):
        self.kind, self.settings, self.run, self.population = kind, settings, run, population
        self.accelerator, self.rasterizer = accelerator, rasterizer
        name = settings.data.head_model or ("open" if population.morphable else None)
        wanted = rasterizer is not None and settings.preview_heads > 0 and accelerator.is_main_process
        self.head = HeadModel.from_pretrained(name) if wanted and name else None
        self.schedule = named_schedule(settings.schedule, settings.timesteps)
        network = build_network(settings.network, population.normalization.size, seed=settings.seed)
        self.network, self.optimiser = self.accelerator.prepare(network, make_optimiser(network, settings))
        self.ema = Ema(settings.ema, settings.ema_every)
        self.batches = Batches(population, settings, self.accelerator.process_index)
        self.step = 0
        self._resume()

    @property
    def bare(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.network)

    def run_to_end(self, progress: Progress, stop: Stop) -> Path:
        settings, losses = self.settings, []
        start_trackers(self.accelerator, self.step)
        with progress.task(f"prior over {self.kind} codes", settings.steps) as task:
            task.advance(self.step)
            while self.step < settings.steps:
                losses.append(self.train_step())
                last = self.step == settings.steps
                if self.step % settings.log_steps == 0 or last:
                    loss = float(np.mean(losses))
                    if not math.isfinite(loss):
                        found = f"the loss is {loss} at step {self.step}: training diverged"
                        raise DataError(found, mend="lower learning_rate")
                    task.advance(len(losses), loss=loss)
                    self._log(loss=loss, learning_rate=self._rate(self.step - 1))
                    losses = []
                if self.step % settings.validate_steps == 0 or last:
                    self._log(**self.validation())
                if (self.step % settings.save_steps == 0 or stop.requested) and not last:
                    self.save()
                    self.preview(progress)
                stop.check()
        self.save()
        self.preview(progress)
        path = self.run.folder / FILE_NAME
        if self.accelerator.is_main_process:
            write_prior(path, self.prior(), settings.network, settings.schedule, settings.half)
        return path

    def train_step(self) -> float:
        clean, t, noise = (x.to(self.accelerator.device) for x in self.batches.at(self.step))
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimiser.zero_grad()
        with self.accelerator.autocast():
            loss = training_loss(self.network, self.schedule, self.settings.prediction, clean, t, noise)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimiser.step()
        self.ema.update(self.bare.state_dict())
        self.step += 1
        return float(loss.detach())

    def _rate(self, step: int) -> float:
        settings = self.settings
        warm = min(1.0, (step + 1) / max(settings.warm_up, 1))
        if settings.decay == "constant":
            return warm * settings.learning_rate
        return warm * settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))

    def prior(self) -> CodePrior:
        """The moving average as a prior, with what its file will say."""
        network = build_network(self.settings.network, self.population.normalization.size)
        network.load_state_dict({key: value.cpu() for key, value in self.ema.average.items()})
        network.requires_grad_(False).eval()
        about = {
            "training_data": self.population.about,
            "steps": self.step,
            "settings": to_mapping(self.settings),
            "licence": LICENCES.get(self.kind if self.settings.data.codes == "open" else "", "as the code table's"),
        }
        parts = self.schedule, self.settings.prediction, self.population.normalization
        return CodePrior(self.kind, network, *parts, about)

    def validation(self) -> dict[str, float]:
        """Loss per noise level on held-out values, of the moving average and of the fitted Gaussian."""
        rng = np.random.default_rng([self.settings.seed, 12])
        values = self.population.normalised(self.population.held_out(VALIDATION_VALUES, rng))
        if not hasattr(self, "_gaussian"):
            exact = gaussian_network(*gaussian_of(self.population), self.schedule, self.settings.prediction)
            self._gaussian = level_losses(exact, self.schedule, self.settings.prediction, values)
        ours = level_losses(self.prior().network, self.schedule, self.settings.prediction, values)
        return {f"validation_{k}": v for k, v in ours.items()} | {f"gaussian_{k}": v for k, v in self._gaussian.items()}

    def preview(self, progress: Progress) -> None:
        """previews/step-002000.png: heads of the moving average, always from the same noise."""
        if self.head is None:
            return
        path = self.run.folder / PREVIEWS / f"step-{self.step:06d}.png"
        try:
            preview(path, self.prior(), self.head, self.rasterizer, self.settings.preview_heads, self.settings.seed)
        except DataError as error:  # early or diverging weights: codes that are no head
            progress.warn(f"no preview at step {self.step}: {error}")

    def _log(self, **figures: float) -> None:
        self.accelerator.log(figures, self.step)

    def save(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        state = {
            **self._same(),
            "step": self.step,
            "network": self.bare.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.ema.average,
            "average_calls": self.ema.calls,
        }
        if self.accelerator.scaler is not None:  # of gradients in half precision
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_state(self.run, self.step, state)

    def _same(self) -> dict[str, Any]:
        """What a stopped training must have in common with the one that goes on."""
        return {"kind": self.kind, "settings": to_mapping(self.settings)}

    def _resume(self) -> None:
        state = latest_state(self.run, self._same(), ("step", "network", "optimiser", "average", "average_calls"))
        if state is not None:
            self.step = state["step"]
            self.bare.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema.average, self.ema.calls = state["average"], state["average_calls"]
            if self.accelerator.scaler is not None and "scaler" in state:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        self.run.rewind(self.step)


def plan(kind: Kind, settings: PriorSettings) -> dict[str, Any]:
    """What a training would take, without doing it: steps, values, parameters, memory and disk (MB, rough)."""
    population = make_population(kind, settings.data, settings.seed)
    network = build_network(settings.network, population.normalization.size)
    parameters = sum(p.numel() for p in network.parameters())
    checkpoints = -(-settings.steps // settings.save_steps)
    values = settings.batch * CHUNK * population.normalization.size
    return {
        "kind": kind,
        "steps": settings.steps,
        "values_drawn": settings.steps * settings.batch,
        "parameters": parameters,
        "memory_mb": round(400 + (parameters * 24 + values * 12) / 1e6),
        "disk_mb": round(checkpoints * parameters * 4 * 4 / 1e6 + 1, 1),
        "outputs": [FILE_NAME, "checkpoints/", "metrics.jsonl", "previews/", "config.yaml", "manifest.json"],
    }
