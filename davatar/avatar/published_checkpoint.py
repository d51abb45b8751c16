"""Published model archives: `DA-3-ID-55/*_config.json` and `checkpoints/ckpt-<step>.pt` (spec 1.3).

Archives are read in place and never written into. The pickle is read as weights only, on the CPU.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_configs import ArchiveConfig, read_archive_config
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.avatar.torch_file import read_torch
from davatar.core.errors import DataError, MissingError
from davatar.core.progress import Progress, silent
from davatar.core.torch_errors import UNREADABLE, unreadable

_FILE = re.compile(r"ckpt-(\d+)\.pt")
RENDERED = ["depths", "uv", "normals", "uv_ambient"]
# Options of the published code that no published avatar uses, with the value under which they do nothing.
_MODEL_OPTIONS = {"use_consistency_decoder": False, "no_pretrained": False, "disable_noise": False}
_DATA_OPTIONS = {
    "use_texture_fields": False,
    "use_texture_hierarchy": False,
    "use_background_texture": False,
    "use_mipmapping": False,
    "use_autoregressive": False,
    "use_freq_encoding_uv": False,
    "use_freq_encoding_depth": False,
    "use_spherical_harmonics": False,
    "remap_noise": False,
    "use_neural_textures": True,
    "use_ambient_textures": True,
    "use_texture_triplanes": True,
    "use_canonical_coordinates": True,
    "normalize": True,
    "use_expression_condition": True,
}


def published_settings(folder: Path, progress: Progress = silent) -> PublishedSettings:
    """Sizes of an archive, from its config files.

    Temporal layers are left out, as the published reader does where the checkpoint has none; it is the checkpoint's
    names that must fit.

    Raises:
        DataError: a config is missing or broken, or asks for features that no published avatar uses.
    """
    return settings_of(read_archive_config(folder, progress), folder)


def settings_of(config: ArchiveConfig, folder: Path) -> PublishedSettings:
    """See `published_settings`."""
    model, data = config.model, config.data
    for part, options, name in ((model, _MODEL_OPTIONS, "model"), (data, _DATA_OPTIONS, "dataset")):
        for key, plain in options.items():
            if getattr(part, key) != plain:
                found = f"asks for {key} = {getattr(part, key)}, which is not supported"
                raise DataError(found, file=folder / f"{name}_config.json")
    if model.n_train_steps not in (None, 1000):
        raise DataError(f"asks for {model.n_train_steps} times, expected 1000", file=folder / "model_config.json")
    if data.rendering_names != RENDERED:
        raise DataError(
            f"lists the renderings {', '.join(data.rendering_names)}, expected {', '.join(RENDERED)}",
            file=folder / "dataset_config.json",
        )
    smoothing = data.expression_condition_smoothing
    if smoothing and smoothing.temporal_smoothing and "expression" in smoothing.param_groups:
        raise DataError("asks for smoothed expressions, which is not supported", file=folder / "dataset_config.json")
    if data.resolution is None:
        raise DataError("lacks resolution", file=folder / "dataset_config.json", mend="fetch the archive again")
    settings = PublishedSettings(
        base=model.diffusion_model_name,
        revision=model.revision,
        resolution=data.resolution,
        texture_size=data.res_neural_textures,
        texture_features=data.dim_neural_textures,
        expression_size=100 if data.force_flame_expression_condition else 200 + 6 * data.include_eye_condition,
        tokens=model.temporal_config.n_expression_tokens,
        participants=model.n_participants or 1,
        zero_terminal_snr=model.rescale_betas_zero_snr,
        predict_x0=model.predict_x0,
    )
    if model.n_cond_channels not in (None, settings.condition_channels):
        raise DataError(
            f"has {model.n_cond_channels} condition channels, its renderings and textures "
            f"{settings.condition_channels}",
            file=folder / "model_config.json",
        )
    return settings


def training_of(config: ArchiveConfig) -> PublishedTraining:
    """How an archive was trained."""
    found = config.optimization
    return PublishedTraining(
        rate=found.learning_rate,
        texture_rate=found.learning_rate_neural_textures,
        weight_decay=found.adam_weight_decay,
        texture_weight_decay=0.0 if found.use_adam_for_neural_textures else PublishedTraining.weight_decay,
        mouth_weight=found.lambda_mouth_loss,
        use_vae_mean=config.training.use_vae_mean,
    )


def published_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> file, in order."""
    found = {int(m[1]): path for path in (folder / "checkpoints").glob("*.pt") if (m := _FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def open_published(
    folder: Path, step: int | None = None, base: str | None = None, progress: Progress = silent
) -> tuple[PublishedAvatar, int]:
    """The avatar of an archive at a checkpoint (default: the latest), and the step.

    Args:
        base: the frozen base, if not the one that the archive names.

    Raises:
        MissingError: the checkpoint or the frozen base is absent; says what to place where.
        DataError: a file of the archive is broken, or a tensor is missing, unknown or of another size (named).
    """
    known = published_checkpoints(folder)
    if not known or (step is not None and step not in known):
        have = f"there are {', '.join(map(str, known))}" if known else "copy checkpoints/ckpt-<step>.pt there"
        raise MissingError(f"no checkpoint{'' if step is None else f' {step}'}", file=folder, mend=have)
    step = max(known) if step is None else step
    config = read_archive_config(folder, progress)
    settings = settings_of(config, folder)
    if base is not None:
        settings = replace(settings, base=base, revision=None)
    tensors = read_checkpoint(known[step])
    avatar = PublishedAvatar.from_settings(settings, training_of(config))
    try:
        avatar.load_trained(tensors, known[step])
    except DataError as error:
        error.mend = error.mend or f"if the frozen base {settings.base} is not the one it was trained on, give --base"
        raise
    return avatar.eval(), step


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a published checkpoint, on the CPU, mapped from the file rather than read.

    Raises:
        DataError: truncated, not a checkpoint, or something else than tensors is in it.
    """
    try:
        found = read_torch(file)
    except UNREADABLE as error:
        raise DataError(
            f"is not a readable checkpoint: {unreadable(error)}", file=file, mend="fetch it again"
        ) from error
    strange = [name for name, x in found.items() if not isinstance(x, torch.Tensor)] if isinstance(found, dict) else []
    if strange or not isinstance(found, dict):
        what = f"{strange[0]} is no tensor" if strange else f"is a {type(found).__name__}, expected a mapping"
        raise DataError(what, file=file, mend="fetch it again")
    return found
