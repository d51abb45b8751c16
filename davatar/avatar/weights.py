"""Weight files: safetensors whose metadata says what they are (design 5)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from davatar.core.errors import DataError
from davatar.core.files import atomic_path


def save_weights(
    path: Path, tensors: Mapping[str, torch.Tensor], kind: str, config: Mapping[str, Any], **about: str
) -> None:
    """Write atomically; `about` holds licence, training data and the like."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, {"kind": kind, "config": json.dumps(dict(config), sort_keys=True), **about})


def read_weights(
    path: Path, kind: str | tuple[str, ...], config: Mapping[str, Any] | None = None
) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and config of a weights file.

    Args:
        kind: what it may hold.
        config: sizes that the file must have been made with; None takes whatever it says.

    Raises:
        DataError: absent, truncated, of another kind or of other sizes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"is not a readable weights file: {error}", file=path, mend="copy it again") from error
    kinds = (kind,) if isinstance(kind, str) else kind
    if about.get("kind") not in kinds:
        raise DataError(f"holds {about.get('kind', 'unknown')} weights, expected {' or '.join(kinds)}", file=path)
    stored = json.loads(about["config"])
    if config is not None:
        differing = [f"{k} {stored.get(k)} instead of {v}" for k, v in config.items() if stored.get(k) != v]
        if differing:
            raise DataError(
                f"was made with other sizes: {', '.join(sorted(differing))}",
                file=path,
                mend="use the settings it was made with, or start from scratch",
            )
    return tensors, stored


def check_fit(own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """
    Raises:
        DataError: names or shapes of the file's tensors differ from one's own.
    """
    absent, foreign = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if absent or foreign:
        found = f"lacks {absent[0]}" if absent else f"has {foreign[0]}, which the avatar does not"
        raise DataError(f"{len(absent) + len(foreign)} tensors do not fit: {found}", file=path)
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise DataError(f"{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}", file=path)


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Strict load, in the module's own precision.

    Raises:
        DataError: names or shapes differ from the module's.
    """
    own = module.state_dict()
    check_fit(own, tensors, path)
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
