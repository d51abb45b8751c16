"""Verify a folder: find the fixtures in it, recompute each, and say how far off the worst number of each is.

Fixtures are recognised by the checks themselves. One that is damaged, or whose check stumbles, is named with its
reason and disturbs no other. What carries a section letter, or lies beside fixtures, and is nobody's, is listed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from davatar.checks.verify.comparison import Check, Comparison
from davatar.checks.verify.fixture import on_device, read_arrays, read_json
from davatar.core.devices import check_device
from davatar.core.errors import DataError, DavatarError, Interrupted, MissingError, UsageError
from davatar.core.progress import Progress, silent

MODULES = (
    "dphm_field",
    "dphm_training",
    "dphm_surface",
    "dphm_unet",
    "dphm_diffusion",
    "dphm_prior_training",
    "dphm_tracking",
    "dphm_preprocessing",
    "dphm_metrics",
    "dphm_published",
    "avatar_model",
    "avatar_data",
    "avatar_sampling",
    "avatar_metrics",
)
KINDS = (".npz", ".json")  # what can be a fixture; weights and pictures beside them are inputs
_LETTERED = re.compile(r"[A-Z]_")


@dataclass(frozen=True)
class Verified:
    """One fixture that could be read: its section and its comparisons."""

    file: str  # relative to the verified folder
    section: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Verification:
    folder: Path
    device: str
    fixtures: tuple[Verified, ...]
    damaged: dict[str, str] = field(default_factory=dict)  # file -> why it could not be recomputed
    unrecognised: tuple[str, ...] = ()  # files that look like fixtures and are nobody's

    @property
    def exceeded(self) -> list[Comparison]:
        return [one for fixture in self.fixtures for one in fixture.comparisons if not one.holds]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; an error that is not finite becomes None."""
        rows = [
            {"section": fixture.section, **vars(one), "error": _finite(one.error), "holds": one.holds}
            for fixture in self.fixtures
            for one in fixture.comparisons
        ]
        return {
            "folder": str(self.folder),
            "device": self.device,
            "holds": not self.exceeded and not self.damaged,
            "comparisons": rows,
            "damaged": [{"file": file, "reason": reason} for file, reason in self.damaged.items()],
            "unrecognised": list(self.unrecognised),
        }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def all_checks() -> list[Check]:
    """Of every module listed above, in that order."""
    return [check for name in MODULES for check in importlib.import_module(f"{__package__}.{name}").CHECKS]


def verify(
    folder: str | Path, device: str = "cpu", only: str | None = None, progress: Progress = silent
) -> Verification:
    """
    Args:
        folder: laid out like the published golden fixtures, or a folder above such.
        device: where networks are evaluated, as torch names it.
        only: a section ("dphm A"), its letter ("A") or its system ("dphm"); None for all.

    Raises:
        MissingError: no such folder, or no such device.
        DataError: nothing in the folder is recognised.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingError("there is no such folder", file=folder, mend="name a folder of fixtures")
    check_device(device)
    checks = [check for check in all_checks() if only is None or _is_of(check.section, only)]
    if not checks:
        known = ", ".join(sorted({check.section for check in all_checks()}))
        raise UsageError(f"no section is called {only!r}", mend=f"name one of {known}")
    letter = "" if only is None else only.split()[-1].upper()
    files = [path for path in _candidates(folder) if len(letter) != 1 or path.name.startswith(f"{letter}_")]
    damaged, fixtures, unrecognised = {}, [], []
    with on_device(device), progress.task(f"verifying {folder.name}", len(files)) as task:
        for path in files:
            name = path.relative_to(folder).as_posix()
            reason = _damage(path)
            check = None if reason else next((check for check in checks if check.recognises(path)), None)
            if reason:
                damaged[name] = reason
            elif check is not None:
                try:
                    found = tuple(replace(one, fixture=name) for one in check.run(path))
                    fixtures.append(Verified(name, check.section, found))
                except Interrupted:
                    raise
                except Exception as error:  # whatever a strange fixture provokes must not stop the others
                    damaged[name] = _reason(error, path)
            elif only is None:
                unrecognised.append(name)
            task.advance()
    if not fixtures and not damaged:
        what = "no fixture" if only is None else f"no fixture of section {only}"
        mend = "fixtures are .npz files whose names start with a section's letter, like A_small.npz"
        raise DataError(f"{what} is recognised here", file=folder, mend=mend)
    return Verification(folder, device, tuple(fixtures), damaged, tuple(unrecognised))


def _candidates(folder: Path) -> Iterator[Path]:
    """Files that may be fixtures: with a section letter anywhere, and all in folders that hold one, or at the top."""
    for path in sorted(path for kind in KINDS for path in folder.rglob(f"*{kind}")):
        lettered = _LETTERED.match(path.name)
        if lettered or path.parent == folder or path.name == "expected.npz" or _holds_fixtures(path.parent):
            yield path


def _holds_fixtures(folder: Path) -> bool:
    return any(_LETTERED.match(path.name) for kind in KINDS for path in folder.glob(f"*{kind}"))


def _is_of(section: str, asked: str) -> bool:
    section, asked = section.lower(), asked.lower()
    return asked in (section, *section.rsplit(" ", 1))


def _damage(path: Path) -> str | None:
    """Why a file cannot be read at all; None if it can."""
    try:
        read_arrays(path) if path.suffix == ".npz" else read_json(path)
    except DataError as error:
        return f"{error.message} ({error.mend})"
    return None


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, DavatarError):
        where = "" if error.file in (None, str(path)) else f"{error.file}: "
        return where + error.message
    text = str(error).splitlines()[0] if str(error) else ""
    return f"does not hold what such a fixture holds: {type(error).__name__} {text}".rstrip()
