"""Head-model files: safetensors whose metadata say what they are (design 5).

Matrices are stored in half precision and computed with in float32; anchors and code maps keep
float32 where rounding would move a head. `hash` is the SHA-256 of the tensors, so a track can name
the model it was fitted with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from davatar.core.errors import DataError, MissingError
from davatar.core.files import write_bytes
from davatar.headmodel.ict_codes import CodeMaps
from davatar.headmodel.nphm import NPHM, NPHMConfig

if TYPE_CHECKING:
    from davatar.headmodel.published_checkpoint import PublishedHead
    from davatar.headmodel.training import TrainingSettings

KIND = "davatar head model"
LICENCE = "Apache-2.0 (weights); MIT (ICT-FaceKit, the source of the training data, see LICENSE-ICT-FaceKit.txt)"
TRAINING_DATA = "heads drawn from the ICT-FaceKit morphable model (MIT); no scans or images of people"
_EXACT = ("identity.mean_anchors", "identity.position.", "deformation.mean_anchors")
_MAPS = ("identity", "expression", "anchors", "anchor_identity", "anchor_expression")


def tensor_hash(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of tensors, independent of their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: str | Path, model: NPHM, maps: CodeMaps, settings: TrainingSettings) -> None:
    """Write `model`, its code maps and the settings that made it, atomically; a start's path says nothing elsewhere."""
    told = asdict(settings)
    tensors = {}
    for name, value in model.state_dict().items():
        exact = name.startswith(_EXACT)
        tensors[f"model.{name}"] = value.float() if exact else value.half()
    for name in _MAPS:
        value = torch.from_numpy(getattr(maps, name))
        tensors[f"codes.{name}"] = value.half() if name in ("identity", "expression") else value
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    metadata = {
        "kind": KIND,
        "config": json.dumps(asdict(model.config)),
        "training": json.dumps(told | ({"start": Path(told["start"]).name} if told.get("start") else {})),
        "licence": LICENCE,
        "training_data": TRAINING_DATA,
        "hash": tensor_hash(tensors),
    }
    write_bytes(path, save(tensors, metadata=metadata))


def published_tensors(head: PublishedHead) -> dict[str, torch.Tensor]:
    """Everything of a published head model that its file of ours holds, in full precision."""
    tensors = {f"model.{name}": value for name, value in head.network.state_dict().items()}
    tensors |= {"tables.identity": head.identities, "tables.expression": head.expressions}
    return {name: value.float().contiguous() for name, value in tensors.items()}


IMPORTED = "that of the published checkpoint it was imported from"


def save_published(
    path: str | Path,
    head: PublishedHead,
    licence: str = IMPORTED,
    training_data: str = IMPORTED,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a head model with its code tables as one file of ours, atomically; nothing is rounded.

    Args:
        training: settings that made it, where we know them.
    """
    tensors = published_tensors(head)
    metadata = {
        "kind": KIND,
        "config": json.dumps(asdict(head.network.config)),
        "licence": licence,
        "training_data": training_data,
        "imported": json.dumps(head.about),
        "hash": tensor_hash(tensors),
    }
    if training is not None:
        metadata["training"] = json.dumps(training)
    write_bytes(path, save(tensors, metadata=metadata))


def load_tables(path: str | Path) -> dict[str, torch.Tensor]:
    """Code tables of an imported head model: "identity" [n, Di] and "expression" [m, De]; empty if it has none.

    Raises:
        MissingError, DataError: as `load_weights`.
    """
    tensors, _ = _read(Path(path))
    return {name[7:]: value for name, value in tensors.items() if name.startswith("tables.")}


def is_head_model(path: str | Path) -> bool:
    """A file that `load_weights` takes (its label is read, nothing else)."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("kind") == KIND
    except (SafetensorError, OSError, ValueError):
        return False


def load_weights(path: str | Path) -> tuple[NPHM, CodeMaps | None, dict[str, str]]:
    """What `save_weights` or `save_published` wrote: model (float32, no gradients), code maps if any, metadata.

    Raises:
        MissingError: no file there.
        DataError: the file is truncated, damaged or something else.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    try:
        config = NPHMConfig(**json.loads(metadata["config"]))
        maps, anchors = None, tensors["model.identity.mean_anchors"].float()
        if "codes.anchors" in tensors:
            maps = CodeMaps(**{name: tensors[f"codes.{name}"].float().numpy().astype(np.float32) for name in _MAPS})
            anchors = torch.from_numpy(maps.anchors)
        model = NPHM(config, anchors)
        model.load_state_dict({n[6:]: v.float() for n, v in tensors.items() if n.startswith("model.")})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"does not fit its own configuration: {error}", file=path, mend="fetch or train it again"
        ) from error
    return model.eval().requires_grad_(False), maps, metadata


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise MissingError(
            "no head model there", file=path, mend="`davatar prior train nphm` makes one; `open` is built in"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"is not a readable head model: {error}", file=path, mend="fetch or train it again") from error
    if metadata.get("kind") != KIND:
        raise DataError(f"is not a head model but {metadata.get('kind', 'unlabelled weights')!r}", file=path)
    if tensor_hash(tensors) != metadata.get("hash"):
        raise DataError("is damaged: its tensors do not match its hash", file=path, mend="fetch or train it again")
    return tensors, metadata
