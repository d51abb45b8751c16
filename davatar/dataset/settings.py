"""What can be chosen when recordings become a data set."""

from __future__ import annotations

from dataclasses import dataclass

from davatar.core.errors import ConfigError


@dataclass(frozen=True)
class RasterSettings:
    size: int = 256  # px, side of every picture
    margin: float = 1.0  # room around the head, 1 = a ball of 15.5 cm radius stays in the picture
    subpixels: int = 0  # n x n coverage rays per pixel; 0 = three per pixel of the recording
    cut_neck: bool = True  # remove the mesh below the neck and fade the pictures to white there
    every: int = 1  # use every n-th tracked frame
    views: tuple[str, ...] = ()  # serials; empty = all
    rasterizer: str = "embree"  # a plugin of group davatar.rasterizers
    hold_out_cameras: tuple[str, ...] = ()  # stored as the data set's default split
    hold_out_sequences: tuple[str, ...] = ()

    def __post_init__(self):
        wrong = {
            f"size is {self.size}, expected at least 16": self.size < 16,
            f"margin is {self.margin:g}, expected more than 0": self.margin <= 0,
            f"every is {self.every}, expected at least 1": self.every < 1,
            f"subpixels is {self.subpixels}, expected 0 to 16": not 0 <= self.subpixels <= 16,
        }
        if any(wrong.values()):
            raise ConfigError("; ".join(text for text, holds in wrong.items() if holds))
