"""Fixtures for every test: the shared reference folder, and the command line through its real entry point."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from davatar.headmodel.track import Track

settings.register_profile("davatar", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("davatar")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before anything imports torch

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Recordings, golden numbers and the head model's source; they lie beside the project where they are present."""
    folder = Path(os.environ.get("DAVATAR_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"the reference folder {folder} is absent (DAVATAR_SHARED names another)")
    return folder


@pytest.fixture(scope="session")
def recomputed() -> Callable[..., None]:
    """`recomputed(CHECKS, file)`: one of the checks of `davatar verify` knows the fixture, and all of it holds."""

    def run(checks, path: Path) -> None:
        found = [one for check in checks if check.recognises(path) for one in check.run(path)]
        assert found and [one for one in found if not one.holds] == []

    return run


def _wave(n, a, b, scale):
    return scale * np.sin(a * np.arange(n) + b)


def _wave_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensor k of the sorted names, element i of it (spec dphm 10)."""
    state = {}
    for k, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        v = np.sin(0.37 * np.arange(math.prod(shape)) + 1.3 * k + 0.5).reshape(shape)
        if name.endswith(".g") or (len(shape) == 1 and name.endswith("norm.weight")):
            v = 1 + 0.1 * v
        elif len(shape) >= 2:
            v = 1.2 * v / math.sqrt(math.prod(shape[1:]))
        else:
            v = 0.1 * v
        state[name] = v
    return state


@pytest.fixture(scope="session")
def wave() -> Callable[..., np.ndarray]:
    """Inputs of the conformance vectors: sines that need no files."""
    return _wave


@pytest.fixture(scope="session")
def wave_weights():
    """Fill a module as the conformance vectors say; it becomes double."""
    import torch

    def fill(module):
        state = _wave_state({name: tuple(value.shape) for name, value in module.state_dict().items()})
        module.double().load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        return module

    return fill


@pytest.fixture(scope="session")
def wave_head_states():
    """Both published states of the conformance vectors' head model (spec dphm 10.1), and its widths."""
    import torch

    from davatar.headmodel.nphm import NPHMConfig
    from davatar.headmodel.published import published_shapes

    config = NPHMConfig(
        global_size=4, local_size=2, member_width=6, position_width=5, expression_size=6, compressed_size=3,
        deformation_width=8,
    )  # fmt: skip
    states = [_wave_state(shapes) for shapes in published_shapes(config)]
    states[0]["mlp_pos.4.weight"] *= 0.2
    states[1]["defDeepSDF.lin6.weight"] *= 0.2
    return *({key: torch.as_tensor(value) for key, value in state.items()} for state in states), config


@pytest.fixture(scope="session")
def wave_head(wave_head_states):
    """The head model of spec dphm 10.1, float64."""
    import torch

    from davatar.headmodel.published import from_published

    k, c = np.mgrid[:39, :3]
    return from_published(*wave_head_states, torch.from_numpy(0.3 * np.sin(0.9 * k + 2.1 * c + 0.2)))


@pytest.fixture(scope="session")
def make_track() -> Callable[..., Track]:
    """`make_track(rotation, translation, key=value)`: a track of the linear stage with these poses of the morphable
    head, [T, 3, 3] and [T, 3] m; mean head, no codes, nothing lost; further arrays replace those."""
    from davatar.headmodel.track import Track, pose_from_morphable

    def make(rotation: np.ndarray, translation: np.ndarray, **given: object) -> Track:
        frames = len(rotation)
        neural_rotation, neural_translation = pose_from_morphable(rotation, translation)
        arrays = {
            "identity": np.zeros(0),
            "expression": np.zeros((frames, 0)),
            "rotation": neural_rotation,
            "translation": neural_translation,
            "frames": np.arange(frames),
            "residual_mm": np.zeros(frames),
            "coverage": np.ones(frames),
            "flag": np.zeros(frames, np.uint8),
            "morphable_identity": np.zeros(100),
            "morphable_expression": np.zeros((frames, 53)),
            "morphable_rotation": rotation,
            "morphable_translation": translation,
        }
        return Track(**{"scale": 1.0, **arrays, **given})

    return make


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the folders of the user who runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("DAVATAR_", "DIFFUSION_AVATARS_")) and name != "DAVATAR_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    for name in ("DATA", "MODELS", "RENDERS", "CACHE"):
        monkeypatch.setenv(f"DAVATAR_{name}", str(home / name.lower()))
    return home


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("runs", "list")` calls the installed entry point in this process and returns exit code and output."""
    (entry,) = entry_points(group="console_scripts", name="davatar")
    main = entry.load()
    log = logging.getLogger("davatar")

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["davatar", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capfd.readouterr()
        log.handlers.clear()  # they write to this test's stderr
        log.setLevel(logging.NOTSET)
        return Outcome(stopped.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def cli_process() -> Callable[..., subprocess.Popen[str]]:
    """`cli_process("demo")` starts the command line as a process of its own, for signals and kills."""
    started = []

    def start(*words: object, module: str = "davatar") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
