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

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import DataError
from davatar.core.files import atomic_path, write_json
from davatar.core.progress import Progress, silent
from davatar.headmodel.ict_codes import CodeMaps, code_maps
from davatar.headmodel.ict_samples import HeadSamples, sample_expressions, sample_heads, sample_identities
from davatar.headmodel.ict_surface import MM
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.nphm import NPHM, NPHMConfig
from davatar.headmodel.weights import save_weights

Stage = Literal["identity", "deformation", "joint"]
STAGES: tuple[Stage, ...] = ("identity", "deformation", "joint")
GROUP = 8  # heads drawn from one generator; also how many enter the pool at once


@dataclass(frozen=True)
class StageSettings:
    steps: int
    learning_rate: float
    last_learning_rate: float
    fresh_heads: int  # heads drawn over the stage besides the first pool


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
    identity: StageSettings = StageSettings(7500, 4e-3, 2e-4, 1600)
    deformation: StageSettings = StageSettings(4500, 3e-3, 3e-4, 1000)
    joint: StageSettings = StageSettings(7000, 8e-4, 5e-6, 2000)
    heads: int = 32  # heads per batch
    pairs: int = 22  # pairs per head and batch; each is two queries
    wide: int = 20  # wide points per head and batch
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
        identity, expression = sample_identities(GROUP, rng), sample_expressions(GROUP, rng)
        posed = None if self.stage == "identity" else expression
        self.heads += sample_heads(identity, posed, settings.pool_pairs, settings.pool_wide, rng)
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


def pair_terms(plus: Tensor, minus: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Field values at p +- h n -> (distance of its zero from p in mm, relative error of its slope), elementwise."""
    return (plus + minus).abs() / (2 * MM), ((plus - minus) / (2 * half) - 1).abs()


def wide_term(value: Tensor, distance: Tensor, corner: float) -> Tensor:
    """Huber error in mm, `corner` mm wide, fading with the distance from the surface."""
    error = (value - distance).abs() / MM
    huber = torch.where(error < corner, error**2 / (2 * corner), error - corner / 2)
    return huber / (1 + distance.abs() / (6 * MM))


def _distance_loss(plus, minus, far, batch, corner) -> tuple[Tensor, dict[str, Tensor]]:
    position, slope = pair_terms(plus, minus, batch["half"])
    wide = wide_term(far, batch["distance"], corner)
    loss = position.mean() + 2 * (slope + slope**2).mean() + 0.7 * wide.mean()
    return loss, {"position_mm": position.mean(), "slope": slope.mean(), "wide_mm": wide.mean()}


def _correspondence_loss(error: Tensor, motion: Tensor, far_error: Tensor, batch: dict[str, Tensor]):
    """Errors and motions in mm -> (loss, mean error); relative to the motion as well, so that faint ones count."""
    near = error.mean() + 0.4 * (error / (0.3 + motion)).mean()
    fade = batch["has_partner"] / (1 + batch["distance"].abs() / (3 * MM))
    return near + 0.4 * (far_error * fade).sum() / fade.sum().clamp_min(1), error.mean()


def _length(v: Tensor) -> Tensor:
    return ((v / MM) ** 2).sum(-1).add(1e-8).sqrt()


def stage_loss(model: NPHM, stage: Stage, batch: dict[str, Tensor], corner: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch and its terms (means, mm; slope without unit)."""
    pairs = batch["surface"].shape[1]
    sides = (1,) if stage == "deformation" else (1, -1)
    shifts = [side * batch["half"][..., None] for side in sides]
    points = torch.cat([batch["surface"] + s * batch["normal"] for s in shifts] + [batch["wide"]], dim=1)
    parts = [pairs] * len(sides) + [batch["wide"].shape[1]]
    if stage == "identity":
        canonical = torch.nn.functional.pad(points, (0, model.config.hyper))
        return _distance_loss(*model.identity(canonical, batch["identity"]).split(parts, dim=1), batch, corner)
    canonical = model.to_canonical(points, batch["identity"], batch["expression"])
    wanted = [batch["canonical"] + s * batch["canonical_normal"] for s in shifts] + [batch["partner"]]
    *near, far_error = _length(canonical[..., :3] - torch.cat(wanted, dim=1)).split(parts, dim=1)
    motion = torch.cat([batch["motion"] / MM] * len(sides), dim=1)
    match, mean = _correspondence_loss(torch.cat(near, dim=1), motion, far_error, batch)
    if stage == "deformation":
        return match, {"correspondence_mm": mean}
    values = model.identity(canonical, batch["identity"]).split(parts, dim=1)
    loss, terms = _distance_loss(*values, batch, corner)
    return loss + 0.7 * match, terms | {"correspondence_mm": mean}


def new_model(settings: TrainingSettings, maps: CodeMaps) -> NPHM:
    """Untrained network: anchors exact from the start, first layers sharp in space, hyper coordinates at zero."""
    torch.manual_seed(settings.seed)
    config = settings.model
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
        if json.loads(path.read_text()) != mine:
            raise DataError("was made with other settings", file=path, mend="choose another output folder")
    else:
        write_json(path, mine)


def _run_stage(model, stage: Stage, settings, maps, folder: Path, state: dict | None, progress: Progress) -> None:
    plan: StageSettings = getattr(settings, stage)
    parameters = _parameters(model, stage)
    optimiser = torch.optim.Adam(parameters, lr=plan.learning_rate, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]
    start = 0
    if state is not None and "optimiser" in state:
        start = state["step"]
        optimiser.load_state_dict(state["optimiser"])
        average = state["average"]
    pool, sums, began = HeadPool(stage, settings, maps), {}, time.perf_counter()
    with progress.task(f"head model, {stage}", plan.steps) as task, open(folder / "metrics.jsonl", "a") as log:
        task.advance(start)
        for step in range(start, plan.steps):
            pool.advance(step)
            corner = 20.0 * max(0.0, 1 - step / (0.05 * plan.steps)) + 1.0 if stage == "identity" else 1.0
            for group in optimiser.param_groups:
                group["lr"] = _rate(plan, step)
            optimiser.zero_grad(set_to_none=True)
            loss, terms = stage_loss(model, stage, pool.batch(step), corner)
            loss.backward()
            optimiser.step()
            decay = min(settings.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
            for name, value in (terms | {"loss": loss}).items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            done = step + 1
            if done % settings.log_steps == 0 or done == plan.steps:
                count = (done - 1) % settings.log_steps + 1
                figures = {name: value / count for name, value in sums.items()}
                line = {"stage": stage, "step": done, **figures, "seconds": time.perf_counter() - began}
                print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}), file=log, flush=True)
                sums = {}
                task.advance(count, **figures)
            if done % settings.checkpoint_steps == 0 and done < plan.steps:
                path = folder / "state.pt"
                _save(path, stage=stage, step=done, model=model.state_dict(), optimiser=optimiser.state_dict(), average=average)
                save_weights(folder / "latest.safetensors", _averaged(model, parameters, average), maps, settings)
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    save_weights(folder / "latest.safetensors", model, maps, settings)


def _averaged(model: NPHM, parameters: list, average: list[Tensor]) -> NPHM:
    import copy

    out = copy.deepcopy(model)
    place = {id(p): k for k, p in enumerate(parameters)}
    with torch.no_grad():
        for mine, theirs in zip(out.parameters(), model.parameters(), strict=True):
            if id(theirs) in place:
                mine.copy_(average[place[id(theirs)]])
    return out


def train_nphm(settings: TrainingSettings, out_folder: str | Path, progress: Progress = silent) -> Path:
    """Train a head model, or go on where a killed run in `out_folder` stopped.

    Args:
        settings: what to train; a folder made with other settings is refused.
        out_folder: gets settings.json, metrics.jsonl, state.pt (resume), latest.safetensors and model.safetensors.

    Returns:
        Path of model.safetensors, which `HeadModel.from_pretrained` reads.

    Raises:
        DataError: the folder was made with other settings, or its state is damaged.
    """
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    _settings_match(folder, settings)
    maps = code_maps(open_morphable())
    model, state, path = new_model(settings, maps), None, folder / "state.pt"
    if path.exists():
        try:
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
        except (RuntimeError, KeyError, EOFError, OSError) as error:
            raise DataError(f"is not a readable training state: {error}", file=path, mend="remove it to start over") from error
    first = 0 if state is None else STAGES.index(state["stage"])
    torch.set_flush_denormal(True)
    for stage in STAGES[first:]:
        _run_stage(model, stage, settings, maps, folder, state, progress)
        state = None
        following = STAGES.index(stage) + 1
        if following < len(STAGES):
            _save(path, stage=STAGES[following], step=0, model=model.state_dict())
    save_weights(folder / "model.safetensors", model, maps, settings)
    return folder / "model.safetensors"
