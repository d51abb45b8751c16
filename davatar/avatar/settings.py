"""Every setting of an avatar: which kind it is, its sizes and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.avatar.tiny import TinyTraining
from davatar.avatar.tiny_network import TinySettings
from davatar.core.errors import ConfigError

COUNTS = ("batch", "accumulation", "log_every", "checkpoint_every", "preview_every", "preview_frames", "preview_steps")
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class Budget:
    """How long to train; exactly one of steps and seconds decides."""

    steps: int | None = None  # resumes to the same weights as an uninterrupted run
    seconds: float | None = None  # of training; loading, previews and checkpoints do not count
    clock: Literal["wall", "cpu"] = "wall"  # what seconds count: time on the wall, or CPU time of the process

    def __post_init__(self):
        for name in ("steps", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"budget.{name} is {value}, expected a positive number")
        if self.steps is not None and self.seconds is not None:
            raise ConfigError(
                "both budget.steps and budget.seconds are set", mend="give one of them; null switches the other off"
            )
        if self.steps is None and self.seconds is None:
            object.__setattr__(self, "seconds", 300.0)


@dataclass(frozen=True)
class AvatarSettings:
    kind: Literal["tiny", "published"] = "tiny"
    start: str = "base"  # base = the shipped pre-trained start; scratch; or a weights file of the same kind
    budget: Budget = field(default_factory=Budget)
    batch: int = 2  # frames that a process holds at once
    accumulation: int = 1  # batches whose gradients are added up before the weights move
    seed: int = 181998
    clip: float = 1.0  # gradient norm
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # inside the network; see `precision.choose`
    compile: bool = False  # the denoiser, where this machine can; pays in long trainings on a GPU
    average: float = 0.0  # decay per step of an average of the weights that is painted with; 0 = none
    log_every: int = 20  # steps
    trackers: tuple[str, ...] = ()  # tensorboard, wandb: besides metrics.jsonl
    checkpoint_every: int = 200  # steps
    keep_checkpoints: int = 2  # older ones are deleted; 0 keeps all
    preview_every: int = 200  # steps
    preview_frames: int = 6
    preview_steps: int = 1  # sampling steps of previews
    tiny: TinySettings = field(default_factory=TinySettings)
    tiny_training: TinyTraining = field(default_factory=TinyTraining)
    published: PublishedSettings = field(default_factory=PublishedSettings)
    published_training: PublishedTraining = field(default_factory=PublishedTraining)

    def __post_init__(self):
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average:g}, expected 0 (none) or a decay below 1 such as 0.999")
        if unknown := sorted(set(self.trackers) - set(TRACKERS)):
            raise ConfigError(f"no tracker is called {unknown[0]!r}", mend=f"there are {', '.join(TRACKERS)}")

    @property
    def frames_per_step(self) -> int:
        """Of one process."""
        return self.batch * self.accumulation

    @property
    def resolution(self) -> int:
        """Side of the avatar's pictures, px."""
        return self.tiny.resolution if self.kind == "tiny" else self.published.resolution
