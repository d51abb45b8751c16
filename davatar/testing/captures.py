"""The battery of `capture.frame.Capture`: random access to frames whose arrays fit their camera."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from davatar.capture.frame import Capture, Frame
from davatar.geometry.camera import Camera
from davatar.testing.require import require


def check_capture(capture: Capture) -> None:
    """Look at the first, middle and last frame of every view.

    Raises:
        VerificationError: the capture breaks its contract.
    """
    require(isinstance(capture.name, str) and bool(capture.name), f"capture.name is {capture.name!r}, expected a word")
    require(
        math.isfinite(capture.fps) and capture.fps > 0, f"capture.fps is {capture.fps!r}, expected frames per second"
    )
    require(isinstance(capture.provenance, dict), "capture.provenance is no dict")
    require(len(capture) > 0, "the capture has no frame")
    require(len(capture.views) > 0, "the capture has no view")
    require(len(set(capture.views)) == len(capture.views), f"two views have the same serial: {capture.views}")
    for view in capture.views:
        indices = sorted({0, len(capture) // 2, len(capture) - 1})
        frames = [capture.frame(index, view) for index in indices]
        for index, frame in zip(indices, frames, strict=True):
            require(frame.index == index, f"frame({index}, {view!r}) says its index is {frame.index}")
            _check_frame(frame, f"frame {index} of view {view}")
        times = [frame.time for frame in frames]
        require(times == sorted(times), f"times of view {view} go backwards: {times}")
        require(_same(capture.frame(indices[0], view), frames[0]), f"frame {indices[0]} differs when read again")
    require(_same(capture.frame(0), capture.frame(0, capture.views[0])), "frame(0) is not the first view's frame")


def check_opener(opener: Callable[[Path], Capture | None], own: Path, foreign: Path) -> None:
    """A plugin of `davatar.captures`: opens its own layout and declines a folder that is not its own.

    Args:
        own: a recording in the plugin's layout.
        foreign: an existing folder of another layout (an empty one will do).

    Raises:
        VerificationError: it declines its own, takes the foreign one, or what it opens breaks the contract.
    """
    require(opener(Path(foreign)) is None, f"{foreign} is not of this layout and was not declined")
    capture = opener(Path(own))
    require(capture is not None, f"{own} is of this layout and was declined")
    check_capture(capture)


def _check_frame(frame: Frame, what: str) -> None:
    require(isinstance(frame.camera, Camera), f"{what}: camera is a {type(frame.camera).__name__}")
    require(math.isfinite(frame.time), f"{what}: time is {frame.time}")
    size = frame.camera.height, frame.camera.width
    require(frame.depth is not None or frame.color is not None, f"{what} has neither depth nor colour")
    if frame.depth is not None:
        _require_image(frame.depth, size, (np.float32,), f"{what}: depth")
        measured = frame.depth[~np.isnan(frame.depth)]
        require(
            bool(np.isfinite(measured).all()), f"{what}: depth holds infinities; write NaN where nothing was measured"
        )
        require(bool((measured > 0).all()), f"{what}: depth holds values <= 0; write NaN where nothing was measured")
    if frame.color is not None:
        _require_image(frame.color, (*size, 3), (np.uint8,), f"{what}: color")
    if frame.mask is not None:
        _require_image(frame.mask, size, (np.bool_, np.float32, np.float64), f"{what}: mask")
    if frame.landmarks is not None:
        shape = frame.landmarks.shape
        require(shape in ((68, 2), (68, 3)), f"{what}: landmarks are {list(shape)}, expected [68, 2] px or [68, 3] m")


def _require_image(image: np.ndarray, shape: tuple[int, ...], kinds: tuple[type, ...], what: str) -> None:
    expected = f"{' or '.join(np.dtype(kind).name for kind in kinds)} {list(shape)}"
    fits = isinstance(image, np.ndarray) and image.shape == shape and image.dtype.type in kinds
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    require(fits, f"{what} is {found}, the camera says {expected}")


def _same(first: Frame, second: Frame) -> bool:
    def equal(a, b) -> bool:
        if a is None or b is None:
            return a is b
        return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")

    return all(equal(getattr(first, part), getattr(second, part)) for part in ("depth", "color", "mask", "landmarks"))
