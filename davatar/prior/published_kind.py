"""Which codes a published prior is for: its settings file knows, else the folder's name tells (spec dphm 4.5).

The weights do not: a 1-D U-Net takes codes of any length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from davatar.core.errors import DataError
from davatar.prior.code_prior import Kind

CONFIG = "configs.yaml"
_WORDS: tuple[tuple[str, Kind], ...] = (
    ("joint", "joint"),
    ("iden", "identity"),
    ("shape", "identity"),
    ("expr", "expression"),
)


def published_config(path: Path) -> dict[str, Any]:
    """What `configs.yaml` above checkpoints/ says about the checkpoint at `path`; empty where it cannot be read."""
    import yaml

    try:
        found = yaml.safe_load((path.parent.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def code_length(path: Path) -> int | None:
    """Length of the codes by the settings file; None where it does not say."""
    try:
        return int(published_config(path)["diffusion"]["diff_kwargs"]["seq_length"])
    except (KeyError, TypeError, ValueError):
        return None


def published_kind(path: Path, asked: Kind | None = None) -> Kind:
    """What the checkpoint at `path` is for.

    Args:
        asked: what the user says it is; needed where neither settings nor names tell.

    Raises:
        DataError: nothing tells, or the settings file or the experiment's own folder tells another kind than `asked`.
    """
    stated = _kind_in_settings(path)
    told = stated or next((kind for part in reversed(path.parts[-4:]) if (kind := _kind_in(part))), None)
    if asked is None:
        if told is None:
            mend = "give its kind"
            raise DataError("the folder's name does not tell which codes the prior is for", file=path, mend=mend)
        return told
    own = stated or _kind_in(_experiment(path).name)
    if own not in (None, asked):
        where = CONFIG if stated else f"the folder's name {_experiment(path).name}"
        mend = f"leave the kind away, or give {own}"
        raise DataError(f"is {_a(own)} prior by {where}, not {_a(asked)} prior as asked for", file=path, mend=mend)
    return asked


def _kind_in_settings(path: Path) -> Kind | None:
    training = published_config(path).get("training")
    return _kind_in(str(training["diff_type"])) if isinstance(training, dict) and "diff_type" in training else None


def _kind_in(text: str) -> Kind | None:
    return next((kind for word, kind in _WORDS if word in text.lower()), None)


def _experiment(path: Path) -> Path:
    """The folder of the training: above checkpoints/, or the one the file lies in."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind[0] in "ei" else f"a {kind}"
