"""Pictures and figures of a training on frames it does not learn from, always with the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from davatar.avatar.conditioning import HeadMaps, with_expression
from davatar.avatar.model import Avatar
from davatar.core.files import write_bytes

PREVIEW_SEED = 0
ERROR_GAIN = 4


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` indices (or all) evenly over 0..count-1."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def paint(avatar: Avatar, frames: Sequence[HeadMaps], steps: int = 1, at_once: int = 8) -> np.ndarray:
    """[N, H, W, 3] float32 0..1 pictures of frames, all from the same noise."""
    device = next(avatar.parameters()).device
    noise = avatar.noise(np.random.default_rng(PREVIEW_SEED)).to(device)
    painted = []
    for start in range(0, len(frames), at_once):
        batch = avatar.batch(frames[start : start + at_once]).to(device)
        painted.append(avatar.render(batch, noise, steps).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(painted)


def truth(frames: Sequence[HeadMaps]) -> np.ndarray:
    """[N, H, W, 3] float32 0..1."""
    return np.stack([maps.image for maps in frames]).astype(np.float32) / 255


def psnr(painted: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over pictures of 10 log10(1 / MSE), dB."""
    errors = np.square(painted - wanted).reshape(len(wanted), -1).mean(1)
    return float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10))))


def figures(
    avatar: Avatar, frames: Sequence[HeadMaps], painted: np.ndarray, steps: int = 1, at_once: int = 8
) -> dict[str, float]:
    """PSNR of the pictures, and what the expression code is worth: the loss in dB when it is zeroed or swapped."""
    wanted = truth(frames)
    found = psnr(painted, wanted)
    zeroed = paint(avatar, [with_expression(maps, 0 * maps.expression) for maps in frames], steps, at_once)
    others = [with_expression(a, b.expression) for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    swapped = paint(avatar, others, steps, at_once)
    return {
        "preview_psnr": found,
        "expression_zeroed_db": found - psnr(zeroed, wanted),
        "expression_swapped_db": found - psnr(swapped, wanted),
    }


def write_sheet(path: Path, painted: np.ndarray, wanted: np.ndarray) -> None:
    """PNG, one column per frame: truth, avatar, their absolute difference times 4 on white."""
    error = np.clip(1 - ERROR_GAIN * np.abs(painted - wanted), 0, 1)
    rows = [np.concatenate(list(pictures), 1) for pictures in (wanted, painted, error)]
    sheet = np.round(np.concatenate(rows) * 255).astype(np.uint8)
    write_bytes(path, cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())


def preview(
    avatar: Avatar, frames: Sequence[HeadMaps], path: Path, steps: int = 1, at_once: int = 8
) -> dict[str, float]:
    """Write the sheet and return the figures.

    Args:
        avatar: in evaluation mode.
        steps: of sampling.
        at_once: frames in memory.
    """
    with torch.no_grad():
        painted = paint(avatar, frames, steps, at_once)
        found = figures(avatar, frames, painted, steps, at_once)
    write_sheet(path, painted, truth(frames))
    return found
