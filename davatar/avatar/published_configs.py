"""The four config files of a published archive (spec diffusion-avatars 1.3): every version of them -> the current one.

Keys that nobody knows are reported and ignored, missing ones take the published defaults, old ones move to their
new place. Names are the published ones. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from davatar.core.errors import DataError
from davatar.core.files import read_json
from davatar.core.progress import Progress, silent
from davatar.dataset.layout import Smoothing

Config = TypeVar("Config")


@dataclass(frozen=True)
class TemporalConfig:
    temporal_batch_size: int | None = None
    fix_pseudo_3d_block: bool = False
    use_temporal_convolution: bool = True
    temporal_kernel_size: int = 3
    temporal_padding_mode: str = "zeros"
    downscale_factor_convolution: int = 1
    downscale_threshold_convolution: int = 32
    downscale_mode: str = "nearest"
    use_temporal_attention: bool = False
    attention_dim_factor: float = 1
    downscale_factor_attention: int = 1
    downscale_threshold_attention: int = 32
    use_temporal_unet_encoder: bool = False
    use_temporal_unet_decoder: bool = False
    use_temporal_controlnet_encoder: bool = True
    positional_encoding: str | None = None
    enable_extended_temporal_attention: bool = False
    use_expression_condition: bool | None = None
    n_expression_tokens: int = 4


@dataclass(frozen=True)
class ModelConfig:
    diffusion_model_name: str = "stabilityai/stable-diffusion-2-1-base"
    revision: str | None = None
    n_cond_channels: int | None = None
    n_participants: int | None = None
    use_original_scheduler: bool = False
    use_ddpm_inference_scheduler: bool = False
    use_consistency_decoder: bool = False
    temporal_config: TemporalConfig = TemporalConfig()
    remap_noise_scale: int = 2
    rescale_betas_zero_snr: bool = False
    use_trailing_timestep_spacing: bool = False
    n_train_steps: int | None = None
    predict_x0: bool = False
    no_pretrained: bool = False
    disable_noise: bool = False


@dataclass(frozen=True)
class OptimizationConfig:
    learning_rate: float = 5e-6
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    learning_rate_neural_textures: float = 1e-2
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 500
    lr_num_cycles: int = 1
    lr_power: float = 1.0
    scale_lr: bool = False
    use_8bit_adam: bool = False
    set_grads_to_none: bool = False
    max_grad_norm: float = 1.0
    use_adam_for_neural_textures: bool = False
    init_neural_textures_gain: float = 1
    lambda_neural_texture_rgb_loss: float = 0
    lambda_laplacian_reg: float = 0
    lambda_mouth_loss: float = 1


@dataclass(frozen=True)
class TextureFieldConfig:
    n_levels: int = 8
    n_features_per_level: int = 2
    log2_hashmap_size: int = 19
    base_resolution: int = 16
    per_level_scale: float = 2.0


@dataclass(frozen=True)
class ArchiveDataConfig:
    dataset_version: str | None = None
    rendering_names: list[str] = field(default_factory=list)
    resolution: int | None = None
    n_participants: int = -1
    normalize: bool = False
    seed: int = 181998
    use_color_correction: bool = False
    split_ratio: float = 1
    hold_out_cameras: list[str] | None = None
    supported_splits: list[str] = field(default_factory=lambda: ["TRAIN"])
    use_predefined_test_split: bool = False
    hold_out_sequences: list[str] | None = None
    exclude_sequences: list[str] | None = None
    use_random_cropping: bool = False
    min_crop_size: float = 0.7
    crop_selection_aspect_ratio: float = 1.2
    interpolate_target_images: bool = False
    use_neural_textures: bool = False
    use_background_texture: bool = False
    use_ambient_textures: bool = False
    dim_neural_textures: int = 8
    res_neural_textures: int = 32
    use_mipmapping: bool = False
    use_texture_fields: bool = False
    use_texture_triplanes: bool = False
    use_texture_hierarchy: bool = False
    n_texture_hierarchy_levels: int = 4
    texture_field_config: TextureFieldConfig = TextureFieldConfig()
    use_canonical_coordinates: bool = False
    use_autoregressive: bool = False
    use_teacher_forcing: bool = True
    use_random_previous_viewpoints: bool = False
    warp_previous_outputs: bool = False
    occlusion_mask_threshold: float | None = None
    use_nphm_subdivision: bool = False
    n_previous_frames: int = 0
    prob_autoregressive_dropout: float = 0
    use_crop_sweep: bool = False
    use_freq_encoding_uv: bool = False
    use_freq_encoding_depth: bool = False
    n_frequencies_uv: int = 4
    n_frequencies_depth: int = 4
    temporal_batch_size: int = 0
    use_temporal_batch_random_viewpoints: bool = False
    use_expression_condition: bool = False
    force_flame_expression_condition: bool = False
    expression_condition_smoothing: Smoothing | None = None
    include_eye_condition: bool = False
    remove_torso: bool = False
    remove_neck_in_mask: bool = False
    remove_background_in_mask: bool = False
    remove_torso_in_mask: bool = False
    include_mouth_mask: bool = False
    include_foreground_mask: bool = False
    segmentation_type: str = "bisenet"
    smooth_neck_boundary: float = 0
    remap_noise: bool = False
    include_view_directions: bool = False
    use_spherical_harmonics: bool = False


@dataclass(frozen=True)
class TrainSetup:
    name: str | None = None
    project_name: str = "diffusion-avatars"
    group_name: str | None = None
    seed: int = 181998
    num_train_epochs: int = 10000
    num_train_iterations: int = -1
    train_batch_size: int = 4
    validation_batch_size: int | None = None
    n_samples_per_epoch: int | None = None
    dataloader_num_workers: int = 0
    gradient_accumulation_steps: int = 1
    mixed_precision: str = "fp16"
    save_model_every: int = 5000
    validate_every: int = 1000
    global_prompt: str = ""
    validation_prompt: list[str] = field(default_factory=lambda: [""])
    n_validation_images: int = 1
    fix_noise: bool = False
    use_full_noise: bool = False
    use_vae_mean: bool = False
    share_temporal_noise: bool = False


@dataclass(frozen=True)
class ArchiveConfig:
    model: ModelConfig
    data: ArchiveDataConfig
    training: TrainSetup
    optimization: OptimizationConfig


_MOVED = ("temporal_batch_size", "temporal_kernel_size", "temporal_padding_mode")  # into temporal_config


def parse_model_config(
    values: dict[str, Any], file: str | Path = "model_config.json", progress: Progress = silent
) -> ModelConfig:
    """Any version of model_config.json -> the current one."""
    values = dict(values)
    moved = {key: values.pop(key) for key in _MOVED if key in values}
    if moved:
        values["temporal_config"] = (values.get("temporal_config") or {}) | moved
    return parse(ModelConfig, values, file, progress)


def parse(
    kind: type[Config], values: dict[str, Any], file: str | Path, progress: Progress = silent, where: str = ""
) -> Config:
    """A config of this kind; unknown keys are reported through `progress`.

    Raises:
        DataError: a value of another type than its key's.
    """
    hints, known = get_type_hints(kind), {f.name for f in dataclasses.fields(kind)}
    for key in values.keys() - known:
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"; did its author mean {near[0]}?" if near else ""
        progress.warn(f"{file}: the key {where}{key} is unknown and ignored{meant}")
    return kind(
        **{key: _value(hints[key], values[key], file, f"{where}{key}", progress) for key in values.keys() & known}
    )


def _value(hint: Any, value: Any, file: str | Path, key: str, progress: Progress) -> Any:
    """A JSON value as its field wants it."""
    allowed = getattr(hint, "__args__", ()) if not hasattr(hint, "__origin__") else ()
    options = allowed or (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return parse(option, value, file, progress, f"{key}.")
        plain = getattr(option, "__origin__", option)
        if plain is float and isinstance(value, int | float) and not isinstance(value, bool):
            return value
        if plain is int and isinstance(value, bool):
            continue
        if isinstance(plain, type) and isinstance(value, plain):
            return value
    wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise DataError(f"{key} is {value!r}, expected {wanted}", file=file, mend="fetch the archive again")


def read_archive_config(folder: Path, progress: Progress = silent) -> ArchiveConfig:
    """The configs of an archive; those of its training may be absent.

    Raises:
        DataError: model_config.json or dataset_config.json is missing, or one is broken.
    """

    def mapping(name: str, needed: bool) -> tuple[dict[str, Any], Path]:
        file = folder / name
        values = read_json(file) if needed or file.is_file() else {}
        if not isinstance(values, dict):
            raise DataError("holds no JSON object", file=file, mend="fetch the archive again")
        return values, file

    return ArchiveConfig(
        model=parse_model_config(*mapping("model_config.json", True), progress),
        data=parse(ArchiveDataConfig, *mapping("dataset_config.json", True), progress),
        training=parse(TrainSetup, *mapping("train_setup.json", False), progress),
        optimization=parse(OptimizationConfig, *mapping("optimization_config.json", False), progress),
    )
