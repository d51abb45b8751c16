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
        if self.size < 16 or self.margin <= 0 or self.every < 1 or not 0 <= self.subpixels <= 16:
            raise ConfigError(
                f"size {self.size} must be at least 16, margin {self.margin:g} positive, "
                f"every {self.every} at least 1, subpixels {self.subpixels} in 0..16"
            )
