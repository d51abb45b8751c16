"""davatar: from a depth camera, or a multi-view recording, to an animatable, photo-real head.

What the command line does is one call away here, under the names below; each is imported when it is
first used, so that `import davatar` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "core.progress": ("Bars",),
    "core.runs": ("create_run", "list_runs", "resolve_run"),
    "core.settings": ("resolve",),
    "capture.open": ("open_capture",),
    "capture.synthetic.performances": ("record_performances",),
    "headmodel.head_model": ("HeadModel",),
    "headmodel.morphable": ("open_morphable",),
    "headmodel.track": ("Track", "load_track"),
    "headmodel.training": ("train_nphm",),
    "prior.code_prior": ("CodePrior",),
    "prior.training": ("train_prior",),
    "tracking.tracker": ("track",),
    "dataset.fetch": ("fetch",),
    "dataset.rasterize": ("rasterize_tracks",),
    "dataset.rendering_data": ("RenderingData",),
    "avatar.model": ("open_avatar",),
    "avatar.training": ("train_avatar",),
    "avatar.rendering": ("render",),
    "checks.avatar_evaluation": ("evaluate_avatar",),
    "checks.demo": ("demo",),
    "checks.doctor": ("examine",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'davatar' has no attribute {name!r}")
    value = getattr(import_module(f"davatar.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
