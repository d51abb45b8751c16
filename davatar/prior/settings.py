"""Settings of a prior's training; presets of the shipped ones lie in assets/presets/prior."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from davatar.diffusion.parameterization import PredictionType
from davatar.diffusion.schedule import ScheduleName
from davatar.prior.network import NetworkConfig


@dataclass(frozen=True)
class DataSettings:
    codes: str = "open"
    """`open` (drawn from the morphable model), or a file with a code table."""
    normalization: Literal["whiten", "range"] = "whiten"
    """Of a code table; the open codes are always whitened."""
    identities: Literal["normal", "families"] = "normal"
    """Of the open model: as its publishers draw them, or people who resemble their relatives (no Gaussian)."""
    motion: str | None = None
    """File of captured expressions; none: the one that ships."""
    head_model: str | None = None
    """Whose codes a table holds, for pictures: a file or published folder; the open codes know theirs."""
    captured: float = 0.5
    """Share of expressions that are captured frames."""
    overlaid: float = 0.2
    """Share of captured frames with single shapes on top; the rest are single shapes alone."""

    def __post_init__(self):
        if not (0 <= self.captured <= 1 and 0 <= self.overlaid <= 1 and self.captured + self.overlaid <= 1):
            raise ValueError(
                f"captured {self.captured:g} and overlaid {self.overlaid:g} are shares; their sum is at most 1"
            )


@dataclass(frozen=True)
class PriorSettings:
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    schedule: ScheduleName = "cosine"
    timesteps: int = 1000
    prediction: PredictionType = "v_prediction"
    steps: int = 12000
    batch: int = 256
    learning_rate: float = 1e-3
    decay: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after `warm_up`; "constant" as published."""
    warm_up: int = 100
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema: float = 0.995
    ema_every: int = 10
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    log_steps: int = 100
    validate_steps: int = 1000
    save_steps: int = 2000
    preview_heads: int = 8
    """Heads in the picture that is painted at every checkpoint; 0: none."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where figures go besides metrics.jsonl, if installed: tensorboard, wandb."""
    half: bool = True
    """Store the finished network in float16."""

    def __post_init__(self):
        for name in ("timesteps", "steps", "batch", "ema_every", "log_steps", "validate_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not (self.learning_rate > 0 and self.clip > 0 and 0 <= self.ema < 1):
            raise ValueError("learning_rate and clip are positive, ema lies in 0..1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
