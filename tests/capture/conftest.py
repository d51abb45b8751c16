"""A tiny recording made by hand, and a coarse synthetic subject that is quick to make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

WIDTH, HEIGHT = 6, 4
INTRINSICS = {"width": WIDTH, "height": HEIGHT, "fx": 5.0, "fy": 5.0, "cx": 2.5, "cy": 1.5}


@pytest.fixture
def rgbd(tmp_path: Path) -> Path:
    """Two frames, 6x4, plane at 0.5 m with a hole, green colours."""
    folder = tmp_path / "anna"
    depth = np.full((HEIGHT, WIDTH), 500, np.uint16)
    depth[0, 0] = 0
    for kind in ("depth", "color", "landmarks"):
        (folder / kind).mkdir(parents=True)
    for t in range(2):
        cv2.imwrite(str(folder / "depth" / f"{t:05d}.png"), depth + np.uint16(t) * (depth > 0))
        cv2.imwrite(str(folder / "color" / f"{t:05d}.png"), np.full((HEIGHT, WIDTH, 3), (0, 200, 10), np.uint8))
        np.save(folder / "landmarks" / f"{t:05d}.npy", np.full((68, 2), t, np.float32))
    (folder / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    (folder / "meta.json").write_text(json.dumps({"name": "anna", "depth_scale": 1000, "num_frames": 2, "fps": 10}))
    return folder


@pytest.fixture
def edit() -> Callable[..., None]:
    """edit(file, key=value) changes entries of a JSON file; None removes one."""

    def change(file: Path, **entries: object) -> None:
        values = json.loads(file.read_text()) | entries
        file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return change


@pytest.fixture(scope="session")
def model():
    from davatar.headmodel.morphable import open_morphable

    return open_morphable()


@pytest.fixture(scope="session")
def subject(model):
    from davatar.capture.synthetic.subject import Subject

    return Subject.sample(model, seed=3, detail=0.4)
