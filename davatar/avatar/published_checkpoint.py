"""Published model archives: `DA-3-ID-55/{model,dataset}_config.json` and `checkpoints/ckpt-<step>.pt` (spec 1.3).

Archives are read in place and never written into. The pickle is read as weights only, on the CPU.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import torch

from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json

_FILE = re.compile(r"ckpt-(\d+)\.pt")


def published_settings(folder: Path) -> PublishedSettings:
    """Sizes of an archive, from its two config files.

    Raises:
        DataError: a config is missing, or asks for features that no published avatar uses.
    """
    model, data = read_json(folder / "model_config.json"), read_json(folder / "dataset_config.json")
    for key in ("use_texture_fields", "use_texture_hierarchy", "use_background_texture", "use_mipmapping"):
        if data.get(key):
            raise DataError(f"uses {key}, which is not supported", file=folder / "dataset_config.json")
    features = data["dim_neural_textures"]
    rendered = model["n_cond_channels"] - 4 * features
    if rendered != 9 or not (data.get("use_texture_triplanes") and data.get("use_ambient_textures")):
        raise DataError(f"has {rendered} rendered channels besides its textures, expected 9", file=folder)
    return PublishedSettings(
        base=model["diffusion_model_name"],
        resolution=data["resolution"],
        texture_size=data["res_neural_textures"],
        texture_features=features,
        expression_size=200 + 6 * bool(data.get("include_eye_condition")),
        tokens=model["temporal_config"]["n_expression_tokens"],
        participants=model["n_participants"],
    )


def published_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> file, in order."""
    found = {int(m[1]): path for path in (folder / "checkpoints").glob("*.pt") if (m := _FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def open_published(folder: Path, step: int | None = None, base: str | None = None) -> tuple[PublishedAvatar, int]:
    """The avatar of an archive at a checkpoint (default: the latest), and the step.

    Args:
        base: the frozen base, if not the one that the archive names.

    Raises:
        MissingError: the checkpoint or the frozen base is absent.
        DataError: a file of the archive is broken or does not fit.
    """
    known = published_checkpoints(folder)
    if not known or (step is not None and step not in known):
        have = f"there are {', '.join(map(str, known))}" if known else "copy checkpoints/ckpt-<step>.pt there"
        raise MissingError(f"no checkpoint{'' if step is None else f' {step}'}", file=folder, mend=have)
    step = max(known) if step is None else step
    settings = published_settings(folder)
    if base is not None:
        settings = replace(settings, base=base)
    training = PublishedTraining(texture_weight_decay=PublishedTraining.weight_decay)  # as the archives were trained
    avatar = PublishedAvatar.from_settings(settings, training)
    try:
        tensors = torch.load(known[step], map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"is not a readable checkpoint: {error}", file=known[step], mend="fetch it again") from error
    avatar.load_trained(tensors, known[step])
    return avatar.eval(), step
