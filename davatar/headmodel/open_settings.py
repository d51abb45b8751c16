"""Settings of the open head model's training: three stages on heads drawn from the morphable model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from davatar.core.errors import ConfigError
from davatar.headmodel.nphm import NPHMConfig

Stage = Literal["identity", "deformation", "joint"]
GROUP = 8  # heads drawn from one generator; also how many enter the pool at once
STAGES: tuple[Stage, ...] = ("identity", "deformation", "joint")


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
    """What made a head model. A stage of 0 steps is left out."""

    start: str | None = None  # a head model of these sizes that training goes on from: open, a run or a file
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

    def __post_init__(self):
        if self.pool < GROUP:
            raise ConfigError(f"pool is {self.pool}, expected at least {GROUP} heads")
        if self.start is None and self.identity.steps == 0:
            raise ConfigError(
                "identity.steps is 0 and there is no start",
                mend="give --set start=RUN, or open, or a file",
            )
