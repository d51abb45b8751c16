"""Sections A and B of the published avatar: its tensors, and what each of its parts computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from davatar.avatar.expression_block import TOKENS
from davatar.avatar.frozen_base import FrozenBase, encode_tokens, tokenize
from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_configs import ArchiveDataConfig, ModelConfig, OptimizationConfig, TrainSetup, parse
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.avatar.temporal import TemporalAttention, TemporalConvolution
from davatar.avatar.texture import PlaneTextures, sample_hierarchy, sample_wrapped
from davatar.checks.verify.avatar_fixtures import (
    avatar_of,
    base_of,
    batch_of,
    companion,
    conditions_beside,
    holding,
    near,
    tensors,
)
from davatar.checks.verify.comparison import Check, Comparison
from davatar.checks.verify.fixture import device, read_arrays, read_json

EXPRESSION = "_expression_attention"


# --- A: the tensors of a full-size avatar ---------------------------------------------------------------------------


def full_size(trainable: dict[str, list[int]]) -> PublishedAvatar:
    """An avatar without numbers (on torch's meta device) whose widths are those of a key table."""
    blocks = [trainable[f"controlnet.down_blocks.{k}.resnets.0.conv1.weight"][0] for k in range(4)]
    text = trainable["unet.down_blocks.0.attentions.0.transformer_blocks.0._expression_attention.to_k.weight"][1]
    conditions = trainable["controlnet.controlnet_cond_embedding.conv_in.weight"][1]
    settings = PublishedSettings()
    features = (conditions - settings.rendered_channels) // 4
    participants, texels = trainable["ambient_texture_lookup.weight"]
    tokens, code = trainable["expression_codes_mlp.weight"]
    settings = PublishedSettings(
        texture_size=round((texels / features) ** 0.5),
        texture_features=features,
        expression_size=code,
        tokens=tokens // text,
        participants=participants,
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=blocks,
            down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            attention_head_dim=[max(width // 64, 1) for width in blocks],
            cross_attention_dim=text,
            norm_num_groups=8,
            use_linear_projection=True,
            upcast_attention=True,
        )
        base = FrozenBase(unet, AutoencoderKL(), torch.zeros(1, 77, text), "")
        return PublishedAvatar(settings, PublishedTraining(), base)


def check_keys(path: Path) -> Iterator[Comparison]:
    """Names that one side lacks, and shapes that differ, must be none."""
    table = read_json(path)
    avatar = full_size(table["trainable"])
    frozen = {f"unet.{name}": tensor for name, tensor in avatar.unet.state_dict().items() if EXPRESSION not in name}
    for group, own in {"trainable": avatar.trained_state(), "frozen_unet": frozen}.items():
        wanted = table[group]
        if group == "frozen_unet" and not any(name.startswith("unet.") for name in wanted):
            own = {name.removeprefix("unet."): tensor for name, tensor in own.items()}
        differing = sum(list(own[name].shape) != wanted[name] for name in own.keys() & wanted.keys())
        yield Comparison(path.name, f"{group}: names of {len(wanted)} tensors", len(own.keys() ^ wanted.keys()), 0)
        yield Comparison(path.name, f"{group}: shapes", differing, 0)


def check_counts(path: Path) -> Iterator[Comparison]:
    """Numbers of parameters of each part of the avatar whose key table lies beside."""
    wanted = read_json(path)
    avatar = full_size(read_json(companion(path, "trainable", "frozen_unet"))["trainable"])
    control, textures = avatar.controlnet, dict(avatar.textures.named_parameters())
    ambient = textures.pop("ambient_texture_lookup.weight").numel()
    frozen = [p for name, p in avatar.unet.named_parameters() if EXPRESSION not in name]
    zero = [control.controlnet_down_blocks, control.controlnet_mid_block]
    found = {
        "trainable_tensors": len(avatar.trained_state()),
        "unet_frozen": sum(p.numel() for p in frozen),
        "unet_frozen_tensors": len(frozen),
        "unet_expression_attention": sum(p.numel() for n, p in avatar.unet.named_parameters() if EXPRESSION in n),
        "controlnet_total": _size(control),
        "controlnet_cond_embedding": _size(control.controlnet_cond_embedding),
        "controlnet_zero_convs": sum(map(_size, zero)),
        "triplanes": sum(p.numel() for p in textures.values()),
        "ambient": ambient,
        "expression_mlp": _size(avatar.expression_codes_mlp),
        "trainable_total": sum(p.numel() for p in avatar.trained_state().values()),
    }
    for name in found.keys() & wanted.keys():
        yield near(path, name, found[name], wanted[name], 0)


def check_configs(path: Path) -> Iterator[Comparison]:
    """The config files of a full-size archive: keys that we read otherwise than they stand there."""
    kinds = {
        "model_config": ModelConfig,
        "dataset_config": ArchiveDataConfig,
        "train_setup": TrainSetup,
        "optimization_config": OptimizationConfig,
    }
    for name, wanted in read_json(path).items():
        found = asdict(parse(kinds[name], wanted, path))
        differing = sum(found.get(key) != wanted.get(key) for key in found.keys() | wanted.keys())
        yield Comparison(path.name, f"{name}: keys that differ", differing, 0)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- B: what each part computes --------------------------------------------------------------------------------------


@torch.no_grad()
def check_conditions(path: Path) -> Iterator[Comparison]:
    avatar, wanted = avatar_of(path.parent), tensors(path)
    found = avatar.conditioning(batch_of(wanted))
    first, second = wanted["rendered"].shape[1], wanted["rendered"].shape[1] + wanted["neural"].shape[1]
    yield near(path, "features of the three planes", found[:, first:second], wanted["neural"])
    yield near(path, "features of the ambient plane", found[:, second:], wanted["ambient"])
    # Rounding of single values averages out in the sum; a channel in the wrong place would not.
    total, tolerance = found.double().sum(), 1e-8 * found.numel()
    yield near(path, "sum of the conditioning tensor", total, wanted["concat_check_sum"], tolerance)


@torch.no_grad()
def check_lookups(path: Path) -> Iterator[Comparison]:
    wanted = tensors(path)
    count, size, _, features = wanted["plane_uv"].shape
    textures = PlaneTextures(count, size, features).to(device())
    for short in ("uv", "uw", "vw"):
        getattr(textures, f"neural_texture_lookup_{short}").weight.copy_(wanted[f"plane_{short}"].reshape(count, -1))
    textures.ambient_texture_lookup.weight.copy_(wanted["ambient_tex"].reshape(count, -1))
    mask = wanted["mask"][:, 0]
    planes, ambient = textures(wanted["uv_cond"], wanted["ambient_cond"], mask, torch.arange(count, device=device()))
    yield near(path, "three planes, coordinates that wrap", planes, wanted["triplane_out"])
    yield near(path, "ambient plane", ambient, wanted["ambient_out"])
    flat = (wanted["uv_cond"][:, :2].permute(0, 2, 3, 1) + 1) / 2
    if "plain_tex" in wanted:
        # Whether the single texture is masked, the published options do not say; the fixture shows it.
        found = sample_wrapped(wanted["plain_tex"], flat)
        masked = not bool(wanted["plain_out"].abs().sum(1)[~mask].any())
        found = found * mask[:, None] if masked else found
        yield near(path, "single texture", found, wanted["plain_out"])
    levels = [wanted[name] for name in sorted(wanted) if name.startswith("hier") and name[4:].isdigit()]
    if levels:
        yield near(path, "textures of several sizes", sample_hierarchy(levels, flat), wanted["hier_out"])


@torch.no_grad()
def check_tokens(path: Path) -> Iterator[Comparison]:
    avatar, wanted = avatar_of(path.parent), tensors(path)
    place = base_of(path.parent)
    found = avatar.expression_codes_mlp(wanted["expression_codes"])
    yield near(path, "expression tokens", found, wanted["tokens"])
    yield near(path, "ids of the empty prompt", tokenize(place, ""), wanted["empty_prompt_ids"], 0)
    close = partial(near, path)
    yield close("text states of the empty prompt", avatar.empty_prompt, wanted["empty_prompt_hidden"])
    for name in sorted(wanted):
        if name.endswith("_hidden") and name != "empty_prompt_hidden":
            text = name.removesuffix("_hidden")
            yield close(f"text states of {text}", encode_tokens(place, wanted[f"{text}_ids"].cpu()), wanted[name])


@contextmanager
def outputs(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Within the block: what each module put out when it was last called (the first of several results)."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module, inputs: tuple, output) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_network(path: Path) -> Iterator[Comparison]:
    """ControlNet and U-Net with the conditions that lie beside."""
    avatar, wanted, batch = avatar_of(path.parent), tensors(path), conditions_beside(path)
    close = partial(near, path)
    latents, times = wanted["latents"], wanted["timesteps"]
    conditioning, tokens = avatar.conditioning(batch), avatar.expression_codes_mlp(batch.expression)
    text = avatar.empty_prompt.expand(len(latents), -1, -1)
    with outputs({"": avatar.controlnet.controlnet_cond_embedding}) as seen:
        down, middle = avatar.controlnet(latents, times, text, conditioning, return_dict=False)
    yield close("condition encoder", seen[""], wanted["cond_embedding"])
    for k, residual in enumerate(down):
        yield close(f"ControlNet residual {k}", residual, wanted[f"res_down{k}"])
    yield close("ControlNet residual of the middle", middle, wanted["res_mid"])
    unet = avatar.unet
    parts = {f"unet_down{k}": block for k, block in enumerate(unet.down_blocks)} | {"unet_mid": unet.mid_block}
    parts |= {f"unet_up{k}": block for k, block in enumerate(unet.up_blocks)}
    with outputs(parts) as seen:
        found = avatar.denoiser(conditioning, tokens)(latents, times)
    for name in parts:
        yield close(f"U-Net block {name.removeprefix('unet_')}", seen[name], wanted[name], relative=True)
    yield close("U-Net output", found, wanted["unet_out"])
    plain = unet(latents, times, text, cross_attention_kwargs={TOKENS: tokens}).sample
    yield close("U-Net output without ControlNet", plain, wanted["unet_out_no_controlnet"])
    swapped = avatar.denoiser(conditioning, tokens.flip(0))(latents, times)
    yield close("U-Net output, tokens swapped", swapped, wanted["unet_out_swapped_tokens"])
    side = int(wanted["small_crop_latent_side"])
    cut = avatar.denoiser(conditioning[:, :, : 8 * side, : 8 * side], tokens)(latents[:, :, :side, :side], times)
    yield close(f"U-Net output, {side} latents a side", cut, wanted["small_crop_unet_out"])


@torch.no_grad()
def check_block(path: Path) -> Iterator[Comparison]:
    """One transformer block; its tokens and text are those of the folder's token fixture."""
    avatar, wanted = avatar_of(path.parent), tensors(path)
    told = tensors(companion(path, "tokens", "expression_codes"))
    block = avatar.get_submodule(str(read_arrays(path)["block_path"]))
    parts = {"self": block.attn1, "text": block.attn2, "expression": block._expression_attention}
    with outputs(parts) as seen:
        out = block(
            wanted["hidden_in"],
            encoder_hidden_states=avatar.empty_prompt.expand(len(wanted["hidden_in"]), -1, -1),
            cross_attention_kwargs={TOKENS: told["tokens"]},
        )
    after_self = wanted["hidden_in"] + seen["self"]
    after_text = after_self + seen["text"]
    close = partial(near, path)
    yield close("after self-attention", after_self, wanted["after_self"])
    yield close("after text attention", after_text, wanted["after_text"])
    yield close("expression attention", seen["expression"], wanted["expr_out"])
    yield close("after expression attention", after_text + seen["expression"], wanted["after_expr"])
    yield close("transformer block", out, wanted["out"])


@torch.no_grad()
def check_vae(path: Path) -> Iterator[Comparison]:
    avatar, wanted = avatar_of(path.parent), tensors(path)
    close = partial(near, path)
    found = avatar.vae.encode(wanted["image"]).latent_dist
    for name in ("mean", "std", "logvar"):
        yield close(f"encoder, {name}", getattr(found, name), wanted[name])
    decoded = avatar.vae.decode(wanted["latents"] / avatar.vae.config.scaling_factor).sample
    yield close("decoder", decoded, wanted["decoded"])


@torch.no_grad()
def check_temporal(path: Path) -> Iterator[Comparison]:
    """Layers along time, with two heads and groups of two channels as the fixture's were made."""
    wanted = tensors(path)
    x = wanted["x"]
    channels, frames = x.shape[1], 3
    for name, options in {"conv_plain": {}, "conv_down2": {"downscale": 2, "threshold": 4}}.items():
        kernel = wanted[f"{name}_weight"].shape[-1]
        layer = TemporalConvolution(channels, frames, kernel, **options).to(device())
        yield near(path, f"{name}: first weight", layer.weight, wanted[f"{name}_init_weight"])
        layer.load_state_dict({part: wanted[f"{name}_{part}"] for part in ("weight", "bias")})
        yield near(path, f"{name}: output", layer(x), wanted[f"{name}_out"])
    attention = TemporalAttention(channels, frames, heads=2, groups=4).to(device())
    attention.load_state_dict({n[4:]: v for n, v in wanted.items() if n.startswith("att_") and n != "att_out"})
    yield near(path, "attention over time", attention(x), wanted["att_out"])


CHECKS: tuple[Check, ...] = (
    Check("diffusion-avatars A", holding("A", "trainable", "frozen_unet"), check_keys),
    Check("diffusion-avatars A", holding("A", "trainable_tensors", "controlnet_total"), check_counts),
    Check("diffusion-avatars A", holding("A", "model_config", "dataset_config"), check_configs),
    Check("diffusion-avatars B", holding("B", "rendered", "neural", "ambient", "concat_check_sum"), check_conditions),
    Check("diffusion-avatars B", holding("B", "plane_uv", "triplane_out", "uv_cond"), check_lookups),
    Check("diffusion-avatars B", holding("B", "tokens", "empty_prompt_hidden"), check_tokens),
    Check("diffusion-avatars B", holding("B", "latents", "unet_out", "res_mid"), check_network),
    Check("diffusion-avatars B", holding("B", "block_path", "hidden_in", "out"), check_block),
    Check("diffusion-avatars B", holding("B", "image", "mean", "logvar", "decoded"), check_vae),
    Check("diffusion-avatars B", holding("B", "conv_plain_weight", "att_out"), check_temporal),
)
