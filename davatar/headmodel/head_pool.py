"""The heads a step of the open training draws its pairs from: the newest of an endless, numbered sequence.

Which heads are in memory, and what a batch holds, are functions of (seed, stage, step) alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from davatar.headmodel.ict_codes import CodeMaps
from davatar.headmodel.ict_samples import HeadSamples, by_motion, sample_expressions, sample_heads, sample_identities
from davatar.headmodel.ict_surface import MM
from davatar.headmodel.open_settings import GROUP, STAGES, Stage, StageSettings, TrainingSettings


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
