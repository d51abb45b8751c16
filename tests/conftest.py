"""Fixtures for every test: the shared reference folder, and the command line through its real entry point."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("davatar", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("davatar")

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
