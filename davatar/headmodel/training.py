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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import DataError
from davatar.core.files import atomic_path, read_json, write_json, write_text
from davatar.core.interrupt import Stop, interruptible
from davatar.core.progress import Progress, silent
from davatar.headmodel.denormals import denormals_as_zero
from davatar.headmodel.ict_codes import CodeMaps, open_code_maps
from davatar.headmodel.ict_samples import HeadSamples, by_motion, sample_expressions, sample_heads, sample_identities
from davatar.headmodel.ict_surface import MM
from davatar.headmodel.losses import stage_loss
from davatar.headmodel.nphm import NPHM, NPHMConfig
from davatar.headmodel.weights import save_weights

if TYPE_CHECKING:
    from davatar.headmodel.published_training import PublishedSettings

Stage = Literal["identity", "deformation", "joint"]
STAGES: tuple[Stage, ...] = ("identity", "deformation", "joint")
STATE = "state.pt"  # what a killed run goes on from
GROUP = 8  # heads drawn from one generator; also how many enter the pool at once


@dataclass(frozen=True)
class StageSettings:
    steps: int = 1000
    learning_rate: float = 1e-3
    last_learning_rate: float = 1e-5
    faint: float = 0.25  # share of movements drawn a fifth as large
    relative: float = 0.4  # weight of the correspondence error over the size of the motion
    rays: bool = True  # tell by rays what the lids hide: exact, and dearer per head than by nearest samples
    fresh_heads: int = 0  # heads drawn over the stage besides the first pool


@dataclass(frozen=True)
class TrainingSettings:
    """What made a head model; the preset `open` is exactly what made the shipped one."""

    model: NPHMConfig = field(
        default_factory=lambda: NPHMConfig(
            member_cut=0.01,
            member_width=80,
            expression_size=53,
            compressed_size=96,
            deformation_width=192,
            head="product",
            activation="silu",
        )
    )
    identity: StageSettings = StageSettings(7500, 4e-3, 2e-4, fresh_heads=1600)
    deformation: StageSettings = StageSettings(5000, 3e-3, 3e-4, fresh_heads=1000)
    joint: StageSettings = StageSettings(6500, 8e-4, 5e-6, fresh_heads=2000)
    heads: int = 32  # heads per batch
    pairs: int = 22  # pairs per head and batch; each is two queries
    wide: int = 20  # wide points per head and batch
    moving: float = 0.5  # share of the pairs that are drawn in proportion to how far the expression moves them
    pool: int = 256  # heads kept in memory
    pool_pairs: int = 3072  # pairs per head of the pool
    pool_wide: int = 2048
    ema: float = 0.998
    seed: int = 1
    checkpoint_steps: int = 1000
    log_steps: int = 50


class HeadPool:
    """The newest `size` heads of an endless, numbered sequence; which ones depends only on the step."""

    def __init__(self, stage: Stage, settings: TrainingSettings, maps: CodeMaps):
        self.stage, self.settings, self.maps = stage, settings, maps
        self.heads: list[HeadSamples] = []
        self.identity: list[np.ndarray] = []
        self.expression: list[np.ndarray] = []
        self.drawn = 0

    def advance(self, step: int) -> None:
        """Hold the heads that belong to `step`."""
        stage: StageSettings = getattr(self.settings, self.stage)
        groups = self.settings.pool // GROUP + int(stage.fresh_heads * step / stage.steps) // GROUP
        if self.drawn == 0:
            self.drawn = groups - self.settings.pool // GROUP
        while self.drawn < groups:
            self._draw(self.drawn)
            self.drawn += 1

    def _draw(self, group: int) -> None:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, STAGES.index(self.stage), 0, group])
        stage: StageSettings = getattr(settings, self.stage)
        identity, expression = sample_identities(GROUP, rng), sample_expressions(GROUP, rng, stage.faint)
        posed = None if self.stage == "identity" else expression
        self.heads += sample_heads(identity, posed, settings.pool_pairs, settings.pool_wide, rng, stage.rays)
        self.identity += list((identity @ self.maps.identity.T).astype(np.float32))
        self.expression += list((expression * self.maps.expression).astype(np.float32))
        del self.heads[: -settings.pool], self.identity[: -settings.pool], self.expression[: -settings.pool]

    def batch(self, step: int) -> dict[str, Tensor]:
        """Tensors [heads, pairs or wide, ...] and the codes [heads, Di], [heads, De] of one step."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, STAGES.index(self.stage), 1, step])
        chosen = rng.choice(len(self.heads), settings.heads, replace=len(self.heads) < settings.heads)
        alone = self.stage == "deformation"  # a pair's two points tell it the same: twice as many pairs, one point each
        pairs = settings.pairs * (2 if alone else 1)
        pair = rng.integers(settings.pool_pairs, size=(settings.heads, pairs))
        moving = int(settings.moving * pairs)
        pair[:, :moving] = [by_motion(self.heads[h].motion, moving, rng) for h in chosen]
        wide = rng.integers(settings.pool_wide, size=(settings.heads, settings.wide))
        names = ("surface", "normal", "canonical", "canonical_normal", "reach", "motion")
        out = {n: np.stack([getattr(self.heads[h], n)[i] for h, i in zip(chosen, pair, strict=True)]) for n in names}
        for name in ("wide", "distance", "partner", "has_partner"):
            out[name] = np.stack([getattr(self.heads[h], name)[i] for h, i in zip(chosen, wide, strict=True)])
        smallest = np.where(out["reach"] < 1 * MM, 0.2 * MM, 0.25 * MM)
        out["half"] = (smallest + (out["reach"] - smallest) * rng.random(out["reach"].shape)).astype(np.float32)
        if alone:
            out["half"] *= rng.choice(np.array([-1, 1], np.float32), out["half"].shape)
        out["identity"] = np.stack([self.identity[h] for h in chosen])
        out["expression"] = np.stack([self.expression[h] for h in chosen])
        return {name: torch.from_numpy(value) for name, value in out.items()}


def new_model(settings: TrainingSettings, maps: CodeMaps) -> NPHM:
    """Untrained network: anchors exact from the start, first layers sharp in space, hyper coordinates at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return _new_model(settings.model, maps)


def _new_model(config: NPHMConfig, maps: CodeMaps) -> NPHM:
    model = NPHM(config, torch.from_numpy(maps.anchors))
    with torch.no_grad():
        kernel = model.identity.weights[0]
        kernel[..., -3 - config.hyper :] = 18 * torch.randn(*kernel.shape[:2], 3 + config.hyper) / math.sqrt(3)
        _linear_anchors(model, torch.from_numpy(maps.anchor_identity))
        if config.head == "product":
            model.deformation.anchor_motion.copy_(torch.from_numpy(maps.anchor_expression))
            model.deformation.place[0].weight[:, :6] = 3.5 * torch.randn(config.deformation_width, 6)
            model.deformation.bend[0].weight[:, config.deformation_width :][:, :9] = 2 * torch.randn(
                config.deformation_width, 9
            )
            model.deformation.bend_features.weight[config.product_rank :] = 0
            model.deformation.bend_features.bias[config.product_rank :] = 0
    for parameter in model.identity.position.parameters():
        parameter.requires_grad_(False)
    return model


def _linear_anchors(model: NPHM, motion: Tensor, lift: float = 64.0) -> None:
    """Make the anchors' ReLU network exactly linear: a bias keeps every unit positive, the last layer takes it off."""
    first, second, last = model.identity.position
    size = model.config.global_size
    for layer in (first, second):
        layer.weight.zero_()
        layer.weight[:size, :size] = torch.eye(size)
        layer.bias.zero_()
    first.bias[:size] = lift
    last.weight.zero_()
    last.weight[:, :size] = motion.flatten(0, 1)
    last.bias.copy_(-lift * last.weight.sum(dim=1))


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
        DataError: the folder was made with other settings, or its state is damaged.
        Interrupted: a signal arrived; the same call goes on.
    """
    from davatar.headmodel.published_training import PublishedSettings, train_published

    if isinstance(settings, PublishedSettings):
        return train_published(settings, out_folder, progress)
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    _settings_match(folder, settings)
    maps = open_code_maps()
    model, state, path = new_model(settings, maps), None, folder / STATE
    if path.exists():
        try:
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
        except (RuntimeError, KeyError, EOFError, OSError) as error:
            raise DataError(
                f"is not a readable training state: {error}", file=path, mend="remove it to start over"
            ) from error
    first = 0 if state is None else STAGES.index(state["stage"])
    with interruptible() as stop, denormals_as_zero():
        for number, stage in enumerate(STAGES[first:], start=first):
            run = _StageRun(model, stage, settings, maps, folder)
            if state is not None and "optimiser" in state:
                run.restore(state)
            state = None
            _run_stage(run, progress, stop)
            if number + 1 < len(STAGES):
                _save(path, stage=STAGES[number + 1], step=0, model=model.state_dict())
                save_weights(folder / "latest.safetensors", model, maps, settings)
                stop.check()
    save_weights(folder / "model.safetensors", model, maps, settings)
    return folder / "model.safetensors"
