"""The demo's sizes: presets `full` and `quick` in assets/presets/demo. What is not here is the stages' own default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from davatar.core.errors import ConfigError


@dataclass(frozen=True)
class DemoSettings:
    seed: int = 7  # who is filmed, what they do, how the avatar starts
    sequences: int = 4  # the last one is held out: training never sees its motion
    frames: int = 12  # per sequence
    fps: float = 5.0
    views: int = 4  # colour cameras beside the one that measures depth; the last one is held out
    depth_size: tuple[int, int] = (320, 288)  # px, of the camera that measures depth
    distance: float = 0.45  # m, of that camera
    picture: int = 128  # px, side of what the avatar learns and paints
    detail: float = 0.12  # cm, fineness of the subject's skin
    driver_frames: int = 8  # of a second person, whose expressions drive the avatar at the end
    stage: Literal["linear", "neural"] = "neural"  # how far the tracker goes, and the surface the avatar learns from
    start: str = "base"  # base = the shipped start; scratch
    train_steps: int = 700
    scored: int = 3  # frames of a sequence that are compared with the true geometry, which is slow

    def __post_init__(self):
        if self.sequences < 2 or self.views < 2 or min(self.frames, self.driver_frames) < 2 or self.scored < 1:
            raise ConfigError(
                f"the demo needs at least 2 sequences ({self.sequences}), 2 views ({self.views}) and 2 frames in each "
                f"({self.frames}, {self.driver_frames}), and at least 1 scored frame ({self.scored})"
            )
